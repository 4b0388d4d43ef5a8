"""What an evaluation leaves behind: a table, results.json, the CED curves and a sheet of faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import CropDataset, from_unit, generic_layout, to_unit, transform_points
from ccdn.drawing import GREEN, WHITE, contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.evaluation.metrics import NORMS, Array, best_norm, ced, nme, scores
from ccdn.evaluation.predictions import Predictions
from ccdn.files import atomic_write

TILE = 160  # side of a face on the sheet, in pixels
SHOWN = 12  # worst faces, and as many random ones
_NORM_NAMES = {
    "inter_ocular": "inter-ocular",
    "inter_pupil": "inter-pupil",
    "face_size": "face size",
}


@dataclass(frozen=True)
class SplitResult:
    """The scores of one split.

    model, baseline: `metrics.scores` of the network and of the mean shape; errors: NME of each
    face, (N,), by `norm`, of the network; baseline_errors: the same of the mean shape.
    """

    split: str
    predictions: Predictions
    model: dict[str, dict[str, float] | None]
    baseline: dict[str, dict[str, float] | None]
    norm: str
    errors: Array
    baseline_errors: Array


def score_split(split: str, predictions: Predictions, boxes: Array) -> SplitResult:
    """Score a split. boxes: (N, 4), for the norm face_size."""
    truth = predictions.truth
    norm = best_norm(truth.shape[1])
    return SplitResult(
        split=split,
        predictions=predictions,
        model=scores(predictions.predicted, truth, boxes),
        baseline=scores(predictions.mean_shape, truth, boxes),
        norm=norm,
        errors=nme(predictions.predicted, truth, norm, boxes),
        baseline_errors=nme(predictions.mean_shape, truth, norm, boxes),
    )


def table(results: Sequence[SplitResult]) -> str:
    """Scores of every split as text: the network, and below it the mean shape on the same faces.

    NME, failure rate and AUC in %; FR and AUC by inter-ocular NME (face size, and said so, where
    the layout has no eye corners); "-" where a layout has no such norm.
    """
    norms = {result.norm for result in results}
    by = "" if norms == {"inter_ocular"} else " (by face size)"
    header = ["split", "faces", "", *(_NORM_NAMES[norm] for norm in NORMS)]
    header += [f"FR@10{by}", f"AUC@8{by}", f"AUC@10{by}"]
    rows = [header]
    for result in results:
        for name, found in (("model", result.model), ("mean shape", result.baseline)):
            row = [result.split, str(len(result.errors))] if name == "model" else ["", ""]
            row.append(name)
            for norm in NORMS:
                values = found[norm]
                row.append("-" if values is None else f"{values['nme']:.2f}")
            main = found[result.norm]
            assert main is not None
            row += [f"{main[key]:.2f}" for key in ("fr10", "auc8", "auc10")]
            rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i in (0, 2) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    lines.insert(0, "NME, FR and AUC in %")
    return "\n".join(lines)


def to_json(result: SplitResult) -> dict[str, Any]:
    """The scores of a split as plain values."""
    return {
        "faces": len(result.errors),
        "nme_norm_of_curves": result.norm,
        "model": result.model,
        "mean_shape": result.baseline,
    }


def draw_ced(results: Sequence[SplitResult], path: Path) -> None:
    """Draw the CED of every split, with the mean shape's dashed, up to an NME of 10 % or beyond."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    medians = [float(np.median(result.errors)) for result in results]
    end = max(0.10, min(0.5, 2.5 * max(medians)))
    at = np.linspace(0.0, end, 401)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, result in enumerate(results):
        label = f"{result.split} ({100 * result.errors.mean():.2f} %)"
        axis.plot(100 * at, 100 * ced(result.errors, at), color=f"C{i}", label=label)
        label = f"mean shape ({100 * result.baseline_errors.mean():.2f} %)"
        curve = 100 * ced(result.baseline_errors, at)
        axis.plot(100 * at, curve, "--", color=f"C{i}", linewidth=1, label=label)
    norms = sorted({_NORM_NAMES[result.norm] for result in results})
    axis.set_xlabel(f"NME, {' / '.join(norms)} [%]")
    axis.set_ylabel("faces [%]")
    axis.set_xlim(0, 100 * end)
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def draw_faces(result: SplitResult, crops: CropDataset, path: Path, seed: int = 0) -> None:
    """Draw the worst faces and as many random ones: truth thin and white, prediction green.

    Each picture is the crop that the network saw, and carries its NME.
    """
    order = np.argsort(-result.errors, kind="stable")
    count = min(SHOWN, (len(order) + 1) // 2)
    worst, others = order[:count].tolist(), order[count:]
    drawn = np.random.default_rng(seed).permutation(others)[:count].tolist()
    tiles, captions = [], []
    for word, indices in (("worst", worst), ("random", drawn)):
        for index in indices:
            tiles.append(_tile(result.predictions, crops, index))
            captions.append(f"{word}  {100 * result.errors[index]:.1f} %")
    write_picture(path, contact_sheet(tiles, min(6, count), captions))


def _tile(predictions: Predictions, crops: CropDataset, index: int) -> np.ndarray:
    crop = np.ascontiguousarray(crops[index]["image"].numpy().transpose(1, 2, 0))
    matrix, size = predictions.matrices[index], predictions.size
    known = generic_layout(predictions.truth.shape[1])
    image, _ = enlarge(crop, np.zeros((0, 2)), TILE)
    for landmarks, color, thick in (
        (predictions.truth[index], WHITE, 0.8),
        (predictions.predicted[index], GREEN, 1.3),
    ):
        unit = to_unit(transform_points(matrix, landmarks), size)
        dots = color == GREEN or not known.parts
        image = draw_landmarks(image, from_unit(unit, TILE), known, color, thick, dots)
    return image
