"""Measure a model: `python -m ccdn.evaluate --weights runs/x/last.pt --data DIR`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccdn.config import (
    Config,
    ConfigError,
    DataConfig,
    config_from_dict,
    config_to_dict,
    resolve_data,
)
from ccdn.progress import bar, plain_warnings

if TYPE_CHECKING:
    from ccdn.data import FaceSet

EXAMPLES = """\
examples:
  python -m ccdn.evaluate --weights runs/a/last.pt               on the test split of its own data
  python -m ccdn.evaluate --weights runs/a/last.pt --data ~/300w --split helen
  python -m ccdn.evaluate --weights runs/a/last.pt --data synthetic data.synthetic.pose=60
  python -m ccdn.evaluate --weights runs/a/last.pt --split common,challenging --out results

It writes results.json, ced.png and faces.png (one faces_SPLIT.png a split when there are several)
into --out, by default the folder of the weights.

exit codes: 0 done, 2 wrong usage, weights or data, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    plain_warnings()
    from ccdn.data import DataError
    from ccdn.training.checkpoint import CheckpointError

    try:
        _run(options)
        return 0
    except (ConfigError, DataError, CheckpointError, OSError, ValueError) as error:
        print(f"ccdn.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ccdn.evaluate: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.evaluate",
        description="Measure a model: NME, failure rate and AUC beside those of the mean shape.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a checkpoint, e.g. last.pt"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the faces, or synthetic; default: as trained"
    )
    parser.add_argument(
        "--split",
        type=lambda text: [name for name in text.split(",") if name],
        metavar="NAME[,NAME]",
        help="splits to measure (data.eval_splits)",
    )
    parser.add_argument("--out", metavar="DIR", help="where the files go")
    parser.add_argument(
        "--flip-test", action="store_true", help="average with the mirrored picture's landmarks"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="data.field=value",
        help="fields of the data, e.g. data.box=gt",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    from ccdn.evaluation.predictions import predict_faces
    from ccdn.evaluation.report import draw_ced, draw_faces, score_split, table, to_json
    from ccdn.files import write_json
    from ccdn.training.checkpoint import library_versions, load_model
    from ccdn.training.faces import describe, evaluation_crops, open_split, size_boxes
    from ccdn.training.trainer import pick_device

    weights = Path(options.weights)
    device = pick_device(options.device)
    model, checkpoint = load_model(weights, device)
    config = _config(checkpoint.config, options)
    data = config.data
    out = Path(options.out) if options.out else weights.parent
    if options.flip_test and _flip_of(config.model.points) is None:
        raise ConfigError(
            f"--flip-test: no mirror permutation is known for {config.model.points} points"
        )
    opened = {split: open_split(data, split, config.model.points) for split in data.eval_splits}
    seen = {split: _seen(checkpoint.config, data, split, opened[split]) for split in opened}
    results, sets = [], {}
    for split, faces in opened.items():
        crops = evaluation_crops(faces, config)
        sets[split] = (describe(data, faces, split), crops)
        predictions = predict_faces(
            model,
            crops,
            checkpoint.mean_shape.numpy(),
            device,
            options.batch_size,
            options.flip_test,
            progress=lambda starts, split=split: bar(starts, split),  # type: ignore[misc]
        )
        result = score_split(split, predictions, size_boxes(faces))
        results.append(result)
        several = len(data.eval_splits) > 1
        name = f"faces_{split.replace('/', '_')}.png" if several else "faces.png"
        draw_faces(result, crops, out / name)
        sets[split][0]["missing_boxes"] = len(crops.missing_boxes)
        sets[split][0]["seen_in_training"] = seen[split]
    draw_ced(results, out / "ced.png")
    write_json(
        out / "results.json",
        {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": str(weights),
            "trained_steps": checkpoint.step,
            "trained_epochs": checkpoint.epoch,
            "trained_on": checkpoint.data,
            "averaged_weights": checkpoint.averaged is not None,
            "flip_test": options.flip_test,
            "box": data.box,
            "margin": data.margin,
            "splits": {r.split: {**to_json(r), "data": sets[r.split][0]} for r in results},
            "config": config_to_dict(config),
            "versions": library_versions(),
        },
    )
    print(table(results))
    missing = sum(found["missing_boxes"] for found, _ in sets.values())
    print(
        f"box {data.box}, margin {data.margin:g}; {_named(data, sets)}"
        + (f"; no detection, landmark box taken: {missing}" if missing else "")
        + ("; with flip test" if options.flip_test else "")
    )
    for split, count in seen.items():
        if count:
            print(
                f"warning: {count} of the {len(opened[split])} faces of {split} are faces that the"
                " model was trained on",
                file=sys.stderr,
            )
    print(f"written: {out}/results.json, ced.png, faces*.png")


def _config(trained: Config, options: argparse.Namespace) -> Config:
    """The run's configuration with the data that the command line asks for."""
    foreign = [text for text in options.overrides if not text.startswith("data.")]
    if foreign:
        raise ConfigError(
            f"{foreign[0]!r}: only fields of the data can be changed: data.field=value"
        )
    changes = list(options.overrides)
    values = config_to_dict(trained)
    if options.data is not None:
        # Another folder may be of another kind, and its splits have other names.
        values["data"].update(root=options.data, kind="auto", eval_splits=[])
    config = config_from_dict(values, "the checkpoint's configuration", changes)
    data = config.data
    if options.split:
        data = replace(data, eval_splits=list(dict.fromkeys(options.split)))
    return replace(config, data=resolve_data(data))


def _flip_of(points: int) -> Any:
    from ccdn.data import generic_layout

    return generic_layout(points).flip


def _named(data: Any, sets: dict[str, Any]) -> str:
    if data.kind != "synthetic":
        return f"{data.kind} in {data.root}"
    made = [found["generator"] for found, _ in sets.values()]
    return (
        f"generated faces, version {made[0]['version']}, seed"
        f" {' and '.join(str(one['seed']) for one in made)}, yaw up to"
        f" {made[0]['pose_degrees']:g} degrees"
    )


def _seen(trained: Config, data: DataConfig, split: str, faces: FaceSet) -> int:
    """How many faces of a split are in the training split too, held out or not.

    Files are compared by their paths; generated faces, which depend on their seed and number, by
    the seed. What was moved since the training cannot be recognised.
    """
    from ccdn.data import DataError
    from ccdn.training.faces import open_split

    before = trained.data
    if before.kind != data.kind:
        return 0
    if data.kind == "synthetic":
        now = data.synthetic
        seed = now.seed if split == "train" else now.test_seed
        return min(len(faces), before.synthetic.train) if seed == before.synthetic.seed else 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained_on = open_split(before, before.train_split, trained.model.points)
    except DataError:  # no longer there
        return 0
    paths = {
        path.resolve()
        for i in range(len(trained_on))
        if (path := trained_on.face(i).path) is not None
    }
    found = [faces.face(i).path for i in range(len(faces))]
    return sum(path is not None and path.resolve() in paths for path in found)


if __name__ == "__main__":
    sys.exit(main())
