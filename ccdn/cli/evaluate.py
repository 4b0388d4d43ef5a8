"""Measure models and files of predictions: `ccdn evaluate --weights W --data DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccdn.cli.arguments import add_flip_test, add_threads, positive, tell_bundled
from ccdn.cli.command import command
from ccdn.config import (
    Config,
    ConfigError,
    DataConfig,
    config_from_dict,
    config_to_dict,
    resolve_data,
)
from ccdn.evaluation.protocols import PROTOCOLS, Protocol
from ccdn.runtime.quiet import no_warnings

if TYPE_CHECKING:
    import torch

    from ccdn.data import FaceSet
    from ccdn.evaluation.landmark_files import PredictionFile
    from ccdn.evaluation.run import Measured, Network
    from ccdn.runtime.processes import Processes

EXAMPLES = """\
examples:
  ccdn evaluate --data ~/300w --protocol 300w          the bundled weights
  ccdn evaluate --weights runs/a/last.pt               on the test split of its own data
  ccdn evaluate --weights runs/a/last.pt --data ~/300w --protocol 300w
  ccdn evaluate --weights runs/a/last.pt --data ~/300w --split helen
  torchrun --nproc-per-node 8 -m ccdn evaluate --weights runs/a/last.pt --data ~/wflw
  ccdn evaluate --weights runs/a/last.pt --data synthetic data.synthetic.pose=60
  ccdn evaluate --weights runs/p4/last.pt --weights p2=runs/p2/last.pt --data ~/300w
  ccdn evaluate --weights runs/a/last.pt --data ~/300w --predictions rival.npz
  ccdn evaluate --predictions cfss.txt --data ~/COFW68 --protocol cofw68

Prediction files: .npz with pred (N, L, 2) and optionally names, gt, bbox (x y width height) and
subset_NAME; .json {"faces": [{"name", "landmarks"}, ...]}; COFW-68's .txt with four lines per face.
A file that contains the ground truth needs no --data.

--out (default: the folder of the first weights, else evaluation) receives results.json; tables.txt,
.csv, .json and .tex, with the published rows for the paper's protocols; predictions.npz, which
--predictions reads; ced.png; and with weights faces.png (or one faces_SPLIT.png per set),
exemplars.png, activations.png and gallery.npz, for the page of ccdn report.

exit codes: 0 done, 2 wrong usage, weights or data, 130 interrupted
"""


@command("ccdn evaluate", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    _run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccdn evaluate",
        description="Measure models and files of predictions: NME, failure rate and AUC, with the"
        " mean shape's and the published ones.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a checkpoint, e.g. last.pt; several are compared (default, without --predictions:"
        " the bundled weights)",
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="landmarks that another method predicted; several are compared",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of the faces, or synthetic; default: as trained"
    )
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), help="the paper's table to fill")
    parser.add_argument(
        "--split",
        type=lambda text: [name for name in text.split(",") if name],
        metavar="NAME[,NAME]",
        help="splits to measure (data.eval_splits)",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the results")
    add_flip_test(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N")
    add_threads(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="data.field=value",
        help="fields of the data, e.g. data.box=gt",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    from ccdn.checkpoint.bundled import DEFAULT_WEIGHTS
    from ccdn.runtime.processes import processes
    from ccdn.runtime.torch_threads import threads_for, torch_threads

    threads = threads_for(options.batch_size, options.threads)
    with processes(options.device) as team, torch_threads(threads):
        if not options.weights and not options.predictions:
            if team.first:
                tell_bundled("ccdn evaluate", None)
            options.weights = [f"model={DEFAULT_WEIGHTS}"]
            options.out = options.out or "evaluation"  # not the folder of the package
        _run_in(team, options)


def _run_in(team: Processes, options: argparse.Namespace) -> None:
    """Measure; the processes share the networks' work, and only the first one writes."""
    from ccdn.evaluation.output import Circumstances, write_all
    from ccdn.evaluation.protocols import protocol_of
    from ccdn.runtime.device import pick_device

    device = pick_device(options.device, team.local_rank)
    networks = _networks(options, device)
    files = _files(options, [network.name for network in networks])
    if options.data is None and not networks:
        config, protocol = Config(), _protocol(options)
        measured = [_by_itself(options, files)]
    else:
        config = networks[0].config if networks else _config(_standard(files), options)
        protocol = protocol_of(config.data.kind)
        measured = _measure(options, config, networks, files, device, team)
    out = Path(options.out or (networks[0].path.parent if networks else "evaluation"))
    about = Circumstances(
        config, networks, files, protocol, options.flip_test, options.batch_size, device
    )
    if team.first:
        print(write_all(out, measured, about))


def _named(texts: Sequence[str], taken: Sequence[str], first: str | None) -> dict[str, Path]:
    """Names and files of [NAME=]FILE; the default name is `first`, or else the file's own."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or Path(text).exists():
            path = Path(text)
            own = path.stem if first is None else path.resolve().parent.name
            name = first if first is not None and not found else own
        else:
            path = Path(rest)
        if name in found or name in taken or name == "mean shape":
            raise ConfigError(f"two methods are called {name!r}: use --weights NAME=FILE")
        found[name] = path
    return found


def _networks(options: argparse.Namespace, device: torch.device) -> list[Network]:
    from ccdn.checkpoint.load import load_model
    from ccdn.evaluation.run import Network

    networks: list[Network] = []
    for name, path in _named(options.weights, (), "model").items():
        model, checkpoint = load_model(path, device)
        config = _config(checkpoint.config, options)
        points = config.model.points
        if networks and points != networks[0].config.model.points:
            expected = networks[0].config.model.points
            raise ConfigError(f"{path}: found a network of {points} points, expected {expected}")
        if options.flip_test and _flip_of(points) is None:
            raise ConfigError(f"--flip-test: no mirror permutation is known for {points} points")
        networks.append(Network(name, path, model, checkpoint, config))
    return networks


def _files(options: argparse.Namespace, taken: Sequence[str]) -> dict[str, PredictionFile]:
    from ccdn.evaluation.landmark_files import read_predictions

    named = _named(options.predictions, taken, None)
    return {name: read_predictions(path) for name, path in named.items()}


def _standard(files: dict[str, PredictionFile]) -> Config:
    """A configuration for when no weights provide one: the number of points is the files'."""
    config = Config()
    config.model.points = next(iter(files.values())).predicted.shape[1]
    return config


def _protocol(options: argparse.Namespace) -> Protocol | None:
    return None if options.protocol is None else PROTOCOLS[options.protocol]


def _by_itself(options: argparse.Namespace, files: dict[str, PredictionFile]) -> Measured:
    """Score files against the ground truth in the first of them."""
    from ccdn.evaluation.run import measure

    protocol = _protocol(options)
    first = next(iter(files.values()))
    reference = first.reference({} if protocol is None else protocol.sizes)
    if protocol is not None and reference.truth.shape[1] != protocol.points:
        raise ConfigError(
            f"{first.path}: found {reference.truth.shape[1]} points, expected the"
            f" {protocol.points} of {options.protocol}"
        )
    if options.split:
        unknown = [name for name in options.split if name not in reference.subsets]
        if unknown:
            known = ", ".join(reference.subsets)
            raise ConfigError(f"{first.path}: found the subsets {known}, expected {unknown[0]!r}")
        kept = {name: reference.subsets[name] for name in options.split}
        reference = replace(reference, subsets=kept)
    return measure(
        next(iter(reference.subsets)), reference, None, (), files, _cpu(), options.batch_size, False
    )


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def _measure(
    options: argparse.Namespace,
    config: Config,
    networks: Sequence[Network],
    files: dict[str, PredictionFile],
    device: torch.device,
    team: Processes,
) -> list[Measured]:
    """Open every split once, warn about faces seen in training, and measure."""
    from ccdn.evaluation.protocols import one_pass, protocol_of
    from ccdn.evaluation.run import measure, reference_of
    from ccdn.plan.faces import describe, open_split

    data, points = config.data, config.model.points
    passes = one_pass(data.kind, data.eval_splits)
    opened = {split: open_split(data, split, points) for split in passes}
    found = []
    for split, faces in opened.items():
        seen = {n.name: _seen(n.checkpoint.config, data, split, faces) for n in networks}
        protocol = protocol_of(data.kind)
        reference = reference_of(faces, data.kind, split, passes[split], protocol)
        one = measure(
            split,
            reference,
            faces,
            networks,
            files,
            device,
            options.batch_size,
            options.flip_test,
            team,
        )
        one.description.update(describe(data, faces, split))
        if one.runs:
            one.description["missing_boxes"] = len(one.runs[0].crops.missing_boxes)
            one.description["seen_in_training"] = seen[networks[0].name]
        for name, count in seen.items():
            if count and team.first:
                who = "the model" if len(networks) == 1 else name
                print(
                    f"warning: {count} of the {len(faces)} faces of {split} are faces that {who}"
                    " was trained on",
                    file=sys.stderr,
                )
        found.append(one)
    return found


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
        # Another folder may hold another benchmark, whose splits have other names.
        values["data"].update(root=options.data, kind="auto", eval_splits=[])
    protocol = _protocol(options)
    if protocol is not None:
        if values["model"]["points"] != protocol.points:
            raise ConfigError(
                f"--protocol {options.protocol} has {protocol.points} points, found"
                f" {values['model']['points']}"
            )
        values["data"].update(kind=protocol.kind, eval_splits=list(protocol.splits))
    config = config_from_dict(values, "the checkpoint's configuration", changes)
    data = config.data
    if options.split:
        data = replace(data, eval_splits=list(dict.fromkeys(options.split)))
    return replace(config, data=resolve_data(data))


def _flip_of(points: int) -> Any:
    from ccdn.data import generic_layout

    return generic_layout(points).flip


def _seen(trained: Config, data: DataConfig, split: str, faces: FaceSet) -> int:
    """How many faces of a split are in the training split too, held out or not.

    Files are compared by path; generated faces, which depend on their seed and number, by seed.
    Files that were moved since the training are not recognised.
    """
    from ccdn.data import DataError
    from ccdn.plan.faces import open_split

    before = trained.data
    if before.kind != data.kind:
        return 0
    if data.kind == "synthetic":
        now = data.synthetic
        seed = now.seed if split == "train" else now.test_seed
        return min(len(faces), before.synthetic.train) if seed == before.synthetic.seed else 0
    try:
        with no_warnings():
            trained_on = open_split(before, before.train_split, trained.model.points)
    except DataError:  # deleted since
        return 0
    paths = {
        path.resolve()
        for i in range(len(trained_on))
        if (path := trained_on.face(i).path) is not None
    }
    found = [faces.face(i).path for i in range(len(faces))]
    return sum(path is not None and path.resolve() in paths for path in found)
