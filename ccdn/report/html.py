"""The page of `ccdn report`: runs are read, and one HTML file is written from page/."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import yaml

from ccdn.checkpoint.state import library_versions
from ccdn.config import ConfigError, config_from_dict, differences, read_yaml
from ccdn.data import DataError, generic_layout, to_unit, transform_points
from ccdn.evaluation.gallery import load_gallery
from ccdn.evaluation.landmark_files import PredictionFile, read_predictions
from ccdn.evaluation.metrics import Array, best_norm, nme, norms_of
from ccdn.evaluation.result_files import read_arrays, read_json, read_results
from ccdn.evaluation.scoring import MEAN_SHAPE
from ccdn.evaluation.tables import NORM_NAMES, Row, Table, as_values
from ccdn.runtime.files import atomic_write
from ccdn.runtime.progress import counted
from ccdn.training.metrics_log import read_log
from ccdn.training.run_record import read_starts

PAGE = Path(__file__).parent / "page"
SCALE = 10_000  # errors are whole ten-thousandths of the normaliser in the page
PICTURES = 4_000_000  # bytes of faces in a page, all runs together, before base64
POINTS = 400  # of a training curve


@dataclass
class Run:
    """What a folder holds, as the page needs it. sets: errors of every opened set of faces."""

    name: str
    folder: Path
    results: dict[str, Any] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    sets: list[dict[str, Any]] = field(default_factory=list)
    gallery: list[dict[str, Any]] = field(default_factory=list)
    parts: list[list[int]] = field(default_factory=list)
    faces: int = 0
    curves: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def holds(self, name: str) -> bool:
        """Whether a file is there and of the evaluation that results.json is of, not left by one
        before it; results of older versions do not say which are theirs.
        """
        own = self.results.get("written", [name])
        return name in own and (self.folder / name).is_file()


def write_page(out: Path, runs: Mapping[str, Path], title: str) -> int:
    """Write the page; returns its bytes. Raises DataError for a folder without results."""
    budget = PICTURES // len(runs)
    found = [read_run(name, folder, budget) for name, folder in runs.items()]
    content = render(found, title).encode()
    with atomic_write(out) as file:
        file.write(content)
    return len(content)


def read_run(name: str, folder: Path, budget: int = PICTURES) -> Run:
    """Read a run's folder. budget: bytes of its faces' pictures."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder of a run, found no folder")
    run = Run(name, folder)
    if (folder / "results.json").is_file():
        run.results = read_results(folder / "results.json", date=str)
        if not isinstance(run.results.get("written", []), list):
            raise DataError(f"{folder / 'results.json'}: written should be a list of names")
        if run.holds("tables.json"):
            run.tables = _tables(folder / "tables.json")
        run.notes = list(run.results.get("notes", ()))
        for path in sorted(folder.glob("predictions*.npz")):
            if run.holds(path.name):
                _read_set(run, path, budget)
    if (folder / "metrics.jsonl").is_file():
        run.curves = _read_curves(folder / "metrics.jsonl")
    if (folder / "config.yaml").is_file():
        try:
            run.config = read_yaml(folder / "config.yaml", "the sections of a configuration")
        except ConfigError as error:
            raise DataError(str(error)) from None
    elif "config" in run.results:
        run.config = run.results["config"]
    if _trained_since(run):
        run.notes.append(
            "the scores are of an earlier state of this training, before it went on or began"
            " anew: ccdn evaluate measures it as it is now"
        )
    if not run.results and run.curves is None:
        raise DataError(
            f"{folder}: expected results.json of ccdn evaluate or metrics.jsonl of ccdn train,"
            " found neither"
        )
    return run


def render(runs: Sequence[Run], title: str) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    several = len(runs) > 1
    activations = [
        (run.name, _as_jpeg(run.folder / "activations.png"))
        for run in runs
        if run.holds("activations.png")
    ]
    has = {
        "scores": _scores(runs, several),
        "has_ced": any(run.sets for run in runs),
        "papers": _published(runs, several),
        "has_gallery": any(run.gallery for run in runs),
        "activations": activations,
        "has_curves": any(run.curves for run in runs),
        "throughput": _throughput(runs),
        "configs": [(r.name, yaml.safe_dump(r.config, sort_keys=False)) for r in runs if r.config],
    }
    anchors = ("scores", "ced", "published", "gallery", "activations", "training", "throughput")
    names = ("scores", "CED", "published", "faces", "activation maps", "training", "throughput")
    sections = [
        (anchor, name)
        for anchor, name, shown in zip(
            (*anchors, "configuration"), (*names, "configuration"), has.values(), strict=True
        )
        if shown
    ]
    return environment.get_template("page.html").render(
        title=title,
        about=_about(runs),
        sections=sections,
        several=several,
        notes=[(run.name, note) for run in runs for note in run.notes],
        differing=_differing(runs),
        version=library_versions().get("ccdn", ""),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=(PAGE / "page.css").read_text("utf-8"),
        script=(PAGE / "page.js").read_text("utf-8"),
        data=_embedded(runs),
        **has,
    )


def _trained_since(run: Run) -> bool:
    """Whether the weights that were measured lie in the run's folder, and it was trained after."""
    measured = run.results.get("weights")
    if not isinstance(measured, str) or Path(measured).resolve().parent != run.folder.resolve():
        return False
    starts = read_starts(run.folder)
    # Both are UTC in the same notation.
    if starts and str(starts[-1].get("date", "")) > run.results["date"]:
        return True
    steps = [record["step"] for record in (run.curves or {}).get("epochs", ())]
    if Path(measured).name not in ("last.pt", "weights.safetensors") or not steps:
        return False  # best.pt and epoch-0010.pt are of earlier epochs by right
    return bool(run.results.get("trained_steps", steps[-1]) < steps[-1])


def _read_set(run: Run, path: Path, budget: int) -> None:
    """Errors of every method by every norm, and the faces of the gallery next to it."""
    file = read_predictions(path)
    if file.truth is None or file.names is None:
        raise DataError(f"{path}: expected the predictions that ccdn evaluate writes")
    content = read_arrays(path)
    methods = [str(name) for name in content["methods"].ravel()] if "methods" in content else []
    others = [f"pred_{i}" for i in range(1, len(methods))]
    if not methods or any(name not in content for name in others):
        raise DataError(f"{path}: expected the names of methods, and the landmarks of each")
    landmarks = [file.predicted, *(content[name] for name in others)]
    predicted = dict(zip(methods, landmarks, strict=True))
    errors = {
        norm: {name: nme(found, file.truth, norm, file.boxes) for name, found in predicted.items()}
        for norm in norms_of(file.truth.shape[1])
    }
    count = len(file.truth)
    run.faces += count
    run.sets.append(
        {
            "errors": {
                norm: {name: np.round(SCALE * e).astype(int).tolist() for name, e in of.items()}
                for norm, of in errors.items()
            },
            "subsets": {
                name: None if len(indices) == count else indices.tolist()
                for name, indices in file.subsets.items()
                if len(indices)
            },
        }
    )
    beside = path.with_name(path.name.replace("predictions", "gallery", 1))
    if run.holds(beside.name):
        main = errors[best_norm(file.truth.shape[1])][methods[0]]
        _read_gallery(run, beside, file, main, budget)


def _read_gallery(run: Run, path: Path, file: PredictionFile, errors: Array, budget: int) -> None:
    gallery = load_gallery(path)
    assert file.truth is not None
    assert file.names is not None
    run.parts = [list(part) for part in generic_layout(file.truth.shape[1]).parts]
    belongs = {name: set(indices.tolist()) for name, indices in file.subsets.items()}
    left = budget - sum(len(face["image"]) * 3 // 4 for face in run.gallery)
    # Worst and best in turn, so that what is left out is in the middle.
    order = np.argsort(-errors[gallery.indices], kind="stable").tolist()
    turns = [order[i // 2] if i % 2 == 0 else order[-1 - i // 2] for i in range(len(order))]
    for place in turns:
        picture, index = gallery.pictures[place], int(gallery.indices[place])
        left -= len(picture)
        if left < 0:
            break
        matrix = gallery.matrices[place]

        def placed(landmarks: Array, matrix: Array = matrix) -> list[list[int]]:
            unit = to_unit(transform_points(matrix, landmarks), gallery.size)
            found: list[list[int]] = np.round(1000 * unit).astype(int).tolist()
            return found

        run.gallery.append(
            {
                "name": file.names[index],
                "image": _data_url("image/jpeg", picture),
                "error": round(float(errors[index]), 6),
                "subsets": [name for name, inside in belongs.items() if index in inside],
                "truth": placed(file.truth[index]),
                "pred": placed(file.predicted[index]),
            }
        )


def _read_curves(path: Path) -> dict[str, Any]:
    """The log's steps and epochs; of many steps, POINTS evenly spread ones."""
    records = read_log(path)
    steps = [record for record in records if record.get("kind") == "step"]
    epochs = [record for record in records if record.get("kind") == "epoch"]
    rates = [r["images_per_second"] for r in steps if _is_rate(r.get("images_per_second"))]
    if len(steps) > POINTS:
        chosen = np.linspace(0, len(steps) - 1, POINTS).round().astype(int)
        steps = [steps[i] for i in chosen]
    seconds = [record["seconds"] for record in epochs if record.get("seconds")]
    return {
        "steps": steps,
        "epochs": epochs,
        "images_per_second": float(np.median(rates)) if rates else None,
        "seconds": sum(seconds),
    }


def _scores(runs: Sequence[Run], several: bool) -> dict[str, Any] | None:
    """The score tables of all runs as one; the runs may have different norms."""
    found = [(r.name, t) for r in runs for t in r.tables if t["name"] == "scores"]
    if not found:
        return None
    columns = list(dict.fromkeys(name for _, table in found for name in table["columns"]))
    rows = []
    for name, table in found:
        for row in table["rows"]:
            cells = dict(zip(table["columns"], row["cells"], strict=True))
            first: tuple[Any, ...] = (name,) if several else ()
            rows.append(Row((*first, *(cells.get(column) for column in columns)), ours=False))
    head = ("run",) if several else ()
    return as_values(Table("scores", "Scores", (*head, *columns), tuple(rows)))


def _published(runs: Sequence[Run], several: bool) -> list[dict[str, Any]]:
    """Each of the paper's tables once, with the rows that every run measured below its own."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for table in run.tables:
            if table["name"] == "scores":
                continue
            whole = found.setdefault(table["name"], {**table, "rows": [], "notes": []})
            printed = bool(whole["rows"])
            said = table.get("notes", [])
            whole["notes"] += [text for text in said if text not in whole["notes"]]
            for row in table["rows"]:
                if printed and not row["ours"]:
                    continue
                name, *cells = row["cells"]
                name = f"{run.name}: {name}" if several and row["ours"] else name
                notes = sorted(whole["notes"].index(said[mark - 1]) + 1 for mark in row["notes"])
                whole["rows"].append({**row, "cells": [name, *cells], "notes": notes})
    return list(found.values())


def _throughput(runs: Sequence[Run]) -> dict[str, Any] | None:
    rows: list[Row] = []
    for run in runs:
        measured = run.results.get("throughput") or {}
        for name, rate in (measured.get("faces_per_second") or {}).items():
            how = f"{measured['device']}, batch {measured['batch_size']}"
            how += f", threads {measured['threads']}; {measured['what']}"
            rows.append(Row((run.name, f"evaluation of {name}", rate, how), ours=False))
        if run.curves and run.curves["images_per_second"]:
            how = f"median of the log; {run.curves['seconds'] / 60:.1f} minutes of epochs"
            rows.append(
                Row((run.name, "training", run.curves["images_per_second"], how), ours=False)
            )
    if not rows:
        return None
    columns = ("run", "what", "faces a second", "how")
    return as_values(Table("throughput", "Throughput", columns, tuple(rows)))


def _differing(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The configuration's fields that are not the same in all runs, a column for each run."""
    known = [run for run in runs if run.config]
    if len(known) < 2:
        return None
    try:
        configs = [config_from_dict(run.config or {}, run.name) for run in known]
    except ConfigError as error:
        raise DataError(f"the configuration of a run does not fit here: {error}") from None
    values: dict[str, list[str]] = {}
    for number, config in enumerate(configs[1:], 1):
        for name, (first, other) in differences(configs[0], config).items():
            row = values.setdefault(name, [str(first)] * len(configs))
            row[number] = str(other)
    if not values:
        return None
    rows = tuple(Row((name, *found), ours=False) for name, found in values.items())
    names = ("field", *(run.name for run in known))
    return as_values(Table("differing", "What differs", names, rows))


def _about(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        results = run.results
        said = []
        if "weights" in results:
            trained = results.get("trained_on", {}).get("name", "unknown faces")
            epochs = results.get("trained_epochs", 0)
            said.append(f"trained on {trained}, {counted(epochs, 'epoch')}")
        if results:
            measured = {
                split["data"].get("name")
                for split in results.get("splits", {}).values()
                if split.get("data")
            }
            names = ", ".join(sorted(name for name in measured if name))
            said.append(f"measured on {names or 'the faces of a file'}, {results['date'][:10]}")
        parts.append(f"{run.name}: {'; '.join(said) or 'a training, not yet measured'}.")
    return " ".join(parts)


def _embedded(runs: Sequence[Run]) -> str:
    """The data of the page's script, safe inside a script element."""
    content = {
        "scale": SCALE,
        "mean_shape": MEAN_SHAPE,
        "norms": list(NORM_NAMES.items()),
        "runs": [
            {
                "name": run.name,
                "faces": run.faces,
                "sets": run.sets,
                "parts": run.parts,
                "gallery": run.gallery,
                "curves": run.curves,
            }
            for run in runs
        ],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _tables(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(path, list)
    for table in found:
        if not isinstance(table, dict) or not {"name", "title", "columns", "rows"} <= set(table):
            raise DataError(f"{path}: expected tables with name, title, columns and rows")
    return found


def _as_jpeg(path: Path) -> str:
    picture = cv2.imread(str(path))
    if picture is None:
        raise DataError(f"{path}: not a readable picture")
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return _data_url("image/jpeg", data.tobytes())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
