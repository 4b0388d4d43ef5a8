"""The output of an evaluation: results.json, tables, predictions and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.checkpoint.state import library_versions
from ccdn.config import Config, config_to_dict
from ccdn.data import crop_image, generic_layout
from ccdn.data.crop import compose
from ccdn.data.drawing import stack_sheets, write_picture
from ccdn.evaluation.figures import draw_ced, draw_exemplars, draw_face, draw_faces, exemplars
from ccdn.evaluation.gallery import save_gallery
from ccdn.evaluation.landmark_files import PredictionFile, write_predictions
from ccdn.evaluation.protocols import Protocol
from ccdn.evaluation.run import Measured, Network, NetworkRun
from ccdn.evaluation.scoring import to_json
from ccdn.evaluation.tables import (
    Table,
    as_csv,
    as_latex,
    as_text,
    as_values,
    paper_tables,
    score_table,
)
from ccdn.inference.activation_maps import activation_sheet
from ccdn.runtime.files import atomic_write, write_json

if TYPE_CHECKING:
    import torch

MAP_SIDE = 144  # of an activation map, in pixels
MAP_FACES = 4


@dataclass(frozen=True)
class Circumstances:
    """How the evaluation was done, for the record."""

    config: Config
    networks: Sequence[Network]
    files: Mapping[str, PredictionFile]
    protocol: Protocol | None
    flip_test: bool
    batch_size: int
    device: torch.device


def write_all(out: Path, measured: Sequence[Measured], about: Circumstances) -> str:
    """Write every file into the folder `out`; returns the lines to print about it."""
    results = [result for one in measured for result in one.results]
    notes = remarks(measured, about)
    tables = [score_table(results)]
    if about.protocol is not None:
        tables += [
            table
            for table in paper_tables(about.protocol, results, notes)
            if any(row.ours for row in table.rows)
        ]
    _write_tables(out, tables, notes)
    draw_ced(results, out / "ced.png")
    written = ["tables.json"]
    for one in measured:
        suffix = f"_{one.split.replace('/', '_')}" if len(measured) > 1 else ""
        write_predictions(out / f"predictions{suffix}.npz", one.reference, one.predicted)
        written.append(f"predictions{suffix}.npz")
        if one.runs:
            _draw_run(one, one.runs[0], out, suffix)
            written.append(f"gallery{suffix}.npz")
    if measured[0].runs:
        write_picture(out / "activations.png", draw_activations(measured[0]))
        written.append("activations.png")
    # The folder may hold files of an earlier evaluation of other sets of faces.
    content = record(measured, about, notes) | {"written": written}
    write_json(out / "results.json", content)
    said = "\n\n".join(as_text(table) for table in tables)
    wrote = "results.json, tables.*, predictions*.npz, ced.png"
    if measured[0].runs:
        wrote += ", faces*.png, exemplars*.png, activations.png, gallery*.npz"
    return "\n".join([said, "", *(f"note: {note}" for note in notes), f"written: {out}/{wrote}"])


def remarks(measured: Sequence[Measured], about: Circumstances) -> list[str]:
    """What readers of the scores must know: boxes and faces, partial sets, faces left out."""
    notes = []
    data = about.config.data
    if about.networks:
        missing = sum(one.description.get("missing_boxes", 0) for one in measured)
        notes.append(
            f"box {data.box}, margin {data.margin:g}; {_source(measured, about)}"
            + (f"; no detection, landmark box taken: {missing}" if missing else "")
            + ("; with flip test" if about.flip_test else "")
        )
    for one in measured:
        short = one.reference.missing()
        if short:
            parts = [f"{name} {found} of {official}" for name, (found, official) in short.items()]
            notes.append(f"not the official test set: {', '.join(parts)} faces")
        skipped = one.description.get("skipped", 0)
        if skipped:
            notes.append(f"{one.split}: {skipped} unreadable faces left out")
    return notes


def record(
    measured: Sequence[Measured], about: Circumstances, notes: Sequence[str]
) -> dict[str, Any]:
    """The content of results.json."""
    splits = {}
    for one in measured:
        for result in one.results:
            official = one.reference.official.get(result.split)
            splits[result.split] = {**to_json(result, official), "data": one.description}
    content: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "notes": list(notes),
        "files": {name: str(file.path) for name, file in about.files.items()},
        "splits": splits,
        "versions": library_versions(),
    }
    if about.networks:
        first, data = about.networks[0], about.config.data
        checkpoint = first.checkpoint
        content |= {
            "weights": str(first.path),
            "trained_steps": checkpoint.step,
            "trained_epochs": checkpoint.epoch,
            "trained_on": checkpoint.data,
            "averaged_weights": checkpoint.averaged is not None,
            "other_weights": {network.name: str(network.path) for network in about.networks[1:]},
            "flip_test": about.flip_test,
            "box": data.box,
            "margin": data.margin,
            "throughput": _throughput(measured, about),
            "config": config_to_dict(about.config),
        }
    return content


def draw_activations(measured: Measured, faces: int = MAP_FACES) -> np.ndarray:
    """Activation maps of every network on the same faces (Fig. 8), one network below the other.

    The faces are those with the lowest and the middle errors of the first network.
    """
    whole = measured.results[0]
    found = exemplars(whole.errors[measured.runs[0].network.name], max(1, faces // 2))
    indices = [int(whole.indices[i]) for kind in ("best", "median") for i in found[kind]]
    sheets = []
    for run in measured.runs:
        items = [run.crops[index] for index in indices]
        crops = np.stack([np.asarray(item["image"]).transpose(1, 2, 0) for item in items])
        name = "landmarks" if len(measured.runs) == 1 else run.network.name
        layout = generic_layout(run.network.config.model.points)
        shown = [_finer(run, index) for index in indices]
        sheets.append(activation_sheet(run.network.model, crops, shown, layout, name))
    return stack_sheets(sheets)


def _finer(run: NetworkRun, index: int) -> np.ndarray:
    """A face's crop at MAP_SIDE pixels, from its picture."""
    factor = MAP_SIDE / run.predictions.size
    # Crop pixel x lies at (x + 0.5) factor - 0.5 of the finer one.
    shift = (factor - 1) / 2
    larger = np.array([[factor, 0, shift], [0, factor, shift]])
    matrix = compose(larger, np.asarray(run.predictions.matrices[index], np.float64))
    return crop_image(run.crops.faces.image(index), matrix, MAP_SIDE)


def _draw_run(one: Measured, run: NetworkRun, out: Path, suffix: str) -> None:
    whole = next(r for r in one.results if len(r.indices) == len(one.reference.truth))
    name = run.network.name
    draw_faces(whole.errors[name], run.predictions, run.crops, out / f"faces{suffix}.png")
    draw_exemplars(
        one.results,
        name,
        lambda index: draw_face(run.predictions, run.crops, index),
        out / f"exemplars{suffix}.png",
    )
    save_gallery(out / f"gallery{suffix}.npz", one)


def _write_tables(out: Path, tables: Sequence[Table], notes: Sequence[str]) -> None:
    text = "\n\n".join(as_text(table) for table in tables)
    text += "".join(f"\nnote: {note}" for note in notes) + "\n"
    latex = "\n\n".join(as_latex(table) for table in tables) + "\n"
    values = json.dumps([as_values(table) for table in tables], indent=2, allow_nan=False) + "\n"
    for suffix, content in (
        ("txt", text),
        ("csv", as_csv(tables)),
        ("tex", latex),
        ("json", values),
    ):
        with atomic_write(out / f"tables.{suffix}") as file:
            file.write(content.encode())


def _source(measured: Sequence[Measured], about: Circumstances) -> str:
    data = about.config.data
    if data.kind != "synthetic":
        return f"{data.kind} in {data.root}"
    made = [one.description["generator"] for one in measured]
    return (
        f"generated faces, version {made[0]['version']}, seed"
        f" {' and '.join(str(one['seed']) for one in made)}, yaw up to"
        f" {made[0]['pose_degrees']:g} degrees"
    )


def _throughput(measured: Sequence[Measured], about: Circumstances) -> dict[str, Any]:
    import torch

    return {
        "faces_per_second": {
            run.network.name: round(run.faces_per_second, 2) for run in measured[0].runs
        },
        "what": "reading (or generating) faces, cropping, the network; one process",
        "faces": len(measured[0].reference.truth),
        "batch_size": about.batch_size,
        "device": str(about.device),
        "threads": torch.get_num_threads(),
    }
