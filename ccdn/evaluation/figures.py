"""Pictures of an evaluation: CED curves (the paper's Figs. 5 and 7), faces, exemplars (Fig. 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import from_unit, generic_layout, to_unit, transform_points
from ccdn.data.drawing import GREEN, WHITE, contact_sheet, draw_landmarks, enlarge, write_picture
from ccdn.evaluation.metrics import Array, ced
from ccdn.evaluation.scoring import MEAN_SHAPE, SplitResult
from ccdn.evaluation.tables import NORM_NAMES
from ccdn.inference.crops import Crops, Predictions
from ccdn.runtime.files import atomic_write

TILE = 160  # side of a face on the sheet, in pixels
SHOWN = 12  # worst faces, and as many random ones
KINDS = ("best", "median", "worst")
EACH = 3  # exemplars of each kind


def draw_ced(results: Sequence[SplitResult], path: Path) -> None:
    """Draw the CED of every method, a panel for each split, up to an NME of 10 % or beyond; the
    mean shape's is dashed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(
        figsize=(6.4 if columns == 1 else 4.6 * columns, 4.2 * rows), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = list(np.ravel(figure.subplots(rows, columns)))
    for axis in axes[len(results) :]:
        axis.set_visible(False)
    for axis, result in zip(axes, results, strict=False):
        _draw_panel(axis, result)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


def ced_end(results: Sequence[SplitResult]) -> float:
    """Where the axis of CED curves ends, a fraction: 10 %, or where most faces are counted."""
    medians = [
        float(np.median(errors))
        for result in results
        for name, errors in result.errors.items()
        if name != MEAN_SHAPE
    ]
    return max(0.10, min(0.5, 2.5 * max(medians, default=0.0)))


def draw_faces(
    errors: Array, predictions: Predictions, crops: Crops, path: Path, seed: int = 0
) -> None:
    """Draw the worst faces and as many random ones: truth thin and white, prediction green.

    errors: (N,) of the predictions. Each picture is the crop that the network saw, and carries its
    NME.
    """
    order = np.argsort(-errors, kind="stable")
    count = min(SHOWN, (len(order) + 1) // 2)
    worst, others = order[:count].tolist(), order[count:]
    drawn = np.random.default_rng(seed).permutation(others)[:count].tolist()
    tiles, captions = [], []
    for word, indices in (("worst", worst), ("random", drawn)):
        for index in indices:
            tiles.append(draw_face(predictions, crops, index))
            captions.append(f"{word}  {100 * errors[index]:.1f} %")
    write_picture(path, contact_sheet(tiles, min(6, count), captions))


def exemplars(errors: Array, each: int = EACH) -> dict[str, list[int]]:
    """The faces with the lowest, the middle and the highest errors, by KINDS, as indices.

    No face is shown twice: of few faces there are fewer of each kind.
    """
    order = np.argsort(errors, kind="stable").tolist()
    each = min(each, max(1, len(order) // len(KINDS)))
    middle = (len(order) - each) // 2
    found = {"best": order[:each], "worst": order[::-1][:each][::-1]}
    taken = {*found["best"], *found["worst"]} if len(order) >= len(KINDS) else set()
    found["median"] = [i for i in order[middle : middle + each] if i not in taken]
    return {kind: found[kind] for kind in KINDS}


def draw_exemplars(
    results: Sequence[SplitResult],
    method: str,
    draw: Callable[[int], np.ndarray],
    path: Path,
) -> None:
    """Draw the best, the median and the worst faces of each subset by a method's errors, a row for
    each subset. draw: the picture of a face, by its index in the reference.
    """
    tiles, captions = [], []
    blank = np.full((TILE, TILE, 3), 24, np.uint8)
    drawn: dict[int, np.ndarray] = {}
    for result in results:
        errors = result.errors[method]
        for kind, places in exemplars(errors).items():
            for place in places:
                index = int(result.indices[place])
                if index not in drawn:
                    drawn[index] = draw(index)
                tiles.append(drawn[index])
                name = result.split if len(result.split) < 10 else f"{result.split[:8]}."
                captions.append(f"{name} {kind} {100 * errors[place]:.1f}")
            tiles += [blank] * (EACH - len(places))
            captions += [""] * (EACH - len(places))
    write_picture(path, contact_sheet(tiles, EACH * len(KINDS), captions))


def draw_face(predictions: Predictions, crops: Crops, index: int) -> np.ndarray:
    """A face's crop, uint8 (TILE, TILE, 3), with truth (white) and prediction (green)."""
    crop = np.ascontiguousarray(np.asarray(crops[index]["image"]).transpose(1, 2, 0))
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


def _draw_panel(axis: Any, result: SplitResult) -> None:
    end = ced_end([result])
    at = np.linspace(0.0, end, 401)
    for number, (method, errors) in enumerate(result.errors.items()):
        plain = method == MEAN_SHAPE
        axis.plot(
            100 * at,
            100 * ced(errors, at),
            "--" if plain else "-",
            color="0.5" if plain else f"C{number}",
            linewidth=1 if plain else 1.5,
            label=f"{method} ({100 * errors.mean():.2f} %)",
        )
    axis.set_title(f"{result.split}, {len(result.indices)} faces", fontsize=10)
    axis.set_xlabel(f"NME, {NORM_NAMES[result.norm]} [%]")
    axis.set_ylabel("faces [%]")
    axis.set_xlim(0, 100 * end)
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
