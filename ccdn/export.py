"""Take a trained network elsewhere: `python -m ccdn.export --weights W --out model.onnx`."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.cli.command import command
from ccdn.config import config_to_dict
from ccdn.runtime.quiet import no_warnings

if TYPE_CHECKING:
    import torch

    from ccdn.checkpoint.state import Checkpoint
    from ccdn.models import CCDN

EXAMPLES = """\
examples:
  python -m ccdn.export --weights runs/a/last.pt --out face.onnx           for onnxruntime
  python -m ccdn.export --weights runs/a/last.pt --out face.pt2            torch.export, torch alone
  python -m ccdn.export --weights runs/a/last.pt --out face.pt2 --keep-operators
  python -m ccdn.export --weights runs/a/last.pt --out face.safetensors    for ccdn.load
  python -m ccdn.export --weights runs/a/last.pt --out face.safetensors --half    of half the size

.onnx and .pt2 take crops, float32 (batch, 3, S, S) RGB in [0, 1], any batch, and give landmarks
(batch, L, 2), x then y, in [0, 1] of the crop. Their operators are standard ones, the second-order
squeeze with its last three steps on a vector; --keep-operators leaves those of ccdn_ops in a .pt2,
which is then faster and needs `import ccdn_ops` before it is loaded. What was written is run and
compared with the network; where they differ by more than the tolerance nothing is written.

exit codes: 0 done, 1 the result differs from the network, 2 wrong usage or weights, 130 interrupted
"""
FORMATS = ("onnx", "pt2", "safetensors")
BATCHES = (1, 2, 5)  # what the result is compared on; the example of the export has 2
OPSET = 18
OPSETS = range(18, 24)  # torch's exporter writes 18 where less is asked for
# Of a coordinate, in [0, 1] of the crop; --half is a quarter of a pixel of 128.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-3

Landmarks = Callable[[np.ndarray], np.ndarray]


class ExportError(RuntimeError):
    """A result that is not the network, or cannot be made; the message is one line."""


@command("ccdn.export", ModuleNotFoundError, ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    out = Path(options.out)
    kind = options.format or out.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(
            f"--out {out}: expected the suffix .onnx, .pt2 or .safetensors, or --format;"
            f" found {out.suffix or 'no suffix'!r}"
        )
    if options.keep_operators and kind != "pt2":
        raise ValueError(f"--keep-operators goes with pt2, found {kind}")
    if options.half and kind != "safetensors":
        raise ValueError(f"--half goes with safetensors, found {kind}")
    if options.opset is not None and kind != "onnx":
        raise ValueError(f"--opset goes with onnx, found {kind}")
    opset = OPSET if options.opset is None else options.opset
    if opset not in OPSETS:
        raise ValueError(f"--opset {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = HALF_TOLERANCE if options.half else TOLERANCE
    try:
        difference = export(
            Path(options.weights), out, kind, tolerance, options.keep_operators, options.half, opset
        )
    except ExportError as error:
        print(f"ccdn.export: {error}", file=sys.stderr)
        return 1
    print(
        f"written: {out} ({out.stat().st_size / 2**20:.1f} MiB); its landmarks differ from the"
        f" network's by at most {difference:.1e} of the crop, on batches of"
        f" {', '.join(map(str, BATCHES))}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccdn.export",
        description="Write a trained network as ONNX, torch.export or safetensors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a checkpoint, e.g. last.pt"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="what to write")
    parser.add_argument(
        "--format", choices=FORMATS, help="what it is; by default what its suffix says"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference of a coordinate, in [0, 1] of the crop (default:"
        f" {TOLERANCE:g}, with --half {HALF_TOLERANCE:g})",
    )
    parser.add_argument(
        "--keep-operators",
        action="store_true",
        help="leave the operators of ccdn_ops in a .pt2 instead of standard ones",
    )
    parser.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help=f"of an .onnx, {OPSETS[0]} to {OPSETS[-1]} (default: {OPSET})",
    )
    parser.add_argument(
        "--half", action="store_true", help="matrices and kernels of a .safetensors as float16"
    )
    return parser


def export(
    weights: Path,
    out: Path,
    kind: str,
    tolerance: float = TOLERANCE,
    keep_operators: bool = False,
    half: bool = False,
    opset: int = OPSET,
) -> float:
    """Write the network of a checkpoint to `out` and return how far its landmarks are off.

    kind: onnx | pt2 | safetensors; opset is that of onnx. Raises ExportError, and writes nothing,
    where what was made differs from the network by more than `tolerance` of the crop;
    CheckpointError for weights that are none; ModuleNotFoundError where packages are missing.
    """
    from ccdn.checkpoint.state import load_model
    from ccdn.runtime.files import atomic_write

    model, checkpoint = load_model(weights)
    if kind == "safetensors":
        content = _safetensors(checkpoint, half)
        run = _run_safetensors(content)
    elif kind == "pt2":
        content = _pt2(model, keep_operators)
        run = _run_pt2(content)
    else:
        content = _onnx(model, checkpoint, opset)
        run = _run_onnx(content)
    difference = _compare(model, run)
    if not difference <= tolerance:
        raise ExportError(
            f"{out}: its landmarks differ from the network's by {difference:.1e} of the crop,"
            f" expected at most {tolerance:.1e}; nothing was written"
        )
    with atomic_write(out) as file:
        file.write(content)
    return difference


def exported_program(model: CCDN, keep_operators: bool = False) -> torch.export.ExportedProgram:
    """The network as a torch.export graph, crops (B, 3, S, S) to landmarks (B, L, 2), B open."""
    import torch

    import ccdn_ops.decompositions

    class Landmarks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            return self.network(crops).landmarks

    size = model.input_size
    crops = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            Landmarks().eval(),
            (crops,),
            dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1)}},
        )
        if keep_operators:
            return program
        return program.run_decompositions(ccdn_ops.decompositions.table())


def _safetensors(checkpoint: Checkpoint, half: bool) -> bytes:
    from ccdn.checkpoint.safetensors_file import to_bytes

    return to_bytes(checkpoint, half)


def _run_safetensors(content: bytes) -> Landmarks:
    import torch

    from ccdn.checkpoint.safetensors_file import from_bytes
    from ccdn.checkpoint.state import load_weights
    from ccdn.models import build_model

    checkpoint = from_bytes(content, Path("the result"))
    model = build_model(checkpoint.config.model).eval()
    load_weights(model, checkpoint.weights(), Path("the result"))

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(crops)).landmarks.numpy()

    return run


def _pt2(model: CCDN, keep_operators: bool) -> bytes:
    import torch

    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(exported_program(model, keep_operators), buffer)
    return buffer.getvalue()


def _run_pt2(content: bytes) -> Landmarks:
    import torch

    with _quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    @torch.no_grad()
    def run(crops: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(crops)).numpy()

    return run


def _onnx(model: CCDN, checkpoint: Checkpoint, opset: int) -> bytes:
    import torch

    _need_onnx()
    program = exported_program(model)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["crops"],
            output_names=["landmarks"],
            opset_version=opset,
            verbose=False,
        )
        assert made is not None
        proto = made.model_proto
    written = next(entry.version for entry in proto.opset_import if not entry.domain)
    if written != opset:
        raise ExportError(f"torch {torch.__version__} wrote opset {written}, expected {opset}")
    _simplify(proto)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # names the open dimension otherwise; onnxruntime infers it
    config = checkpoint.config
    metadata = {
        "ccdn.config": json.dumps(config_to_dict(config)["model"]),
        "ccdn.margin": json.dumps(config.data.margin),
        "ccdn.input": "crops: float32 (batch, 3, S, S), RGB in [0, 1]",
        "ccdn.output": "landmarks: (batch, L, 2), x then y, in [0, 1] of the crop",
    }
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto.SerializeToString()


def _simplify(proto: Any) -> None:
    """Write the graph in words that OpenCV's importer takes, too.

    What depends on weights alone is computed, because the importer has no shapes for it; and an
    Unsqueeze of several axes becomes one for each.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    constants = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.input and all(name in constants for name in node.input):
            constants.update(_computed(node, constants, proto.opset_import))
            continue
        axes = constants.get(node.input[1]) if node.op_type == "Unsqueeze" else None
        if axes is None or axes.size < 2 or axes.min() < 0:
            nodes.append(node)
            continue
        (result,), value = node.output, node.input[0]
        for number, axis in enumerate(sorted(axes.tolist()), 1):
            name = f"{result}_axis_{number}"
            constants[name] = np.array([axis], np.int64)
            output = result if number == axes.size else f"{result}_{number}"
            nodes.append(helper.make_node("Unsqueeze", [value, name], [output], f"{name}_node"))
            value = output
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in used
    )


def _computed(node: Any, constants: dict[str, Any], opsets: Any) -> dict[str, Any]:
    """What a node gives for constants, by the names of its outputs."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    inputs = [numpy_helper.from_array(constants[name], name) for name in set(node.input)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", [], outputs, inputs)
    found = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    return dict(zip(node.output, found, strict=True))


def _run_onnx(content: bytes) -> Landmarks:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(crops: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"crops": crops})[0])

    return run


def _need_onnx() -> None:
    import importlib.util

    names = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the ONNX export needs {', '.join(missing)}; `pip install 'ccdn[export]'`"
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _compare(model: CCDN, run: Landmarks) -> float:
    """The largest difference of a coordinate over smooth and noisy crops of several batches."""
    import torch

    random = torch.Generator().manual_seed(1)
    size = model.input_size
    largest = 0.0
    for batch in BATCHES:
        noise = torch.rand(batch, 3, size, size, generator=random)
        coarse = torch.rand(batch, 3, 4, 4, generator=random)
        smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
        for crops in (noise, smooth):
            with torch.no_grad():
                expected = model(crops).landmarks.numpy()
            found = run(crops.numpy())
            if found.shape != expected.shape:
                raise ExportError(
                    f"the result gives landmarks {found.shape}, the network {expected.shape};"
                    " nothing was written"
                )
            difference = float(np.abs(found - expected).max())
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters say of themselves and of packages that are not used."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with no_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
