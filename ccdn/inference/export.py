"""A trained network as ONNX, torch.export or safetensors, compared with the network itself."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.config import config_to_dict
from ccdn.inference.onnx_file import INPUT, LANDMARKS, SPREAD, metadata
from ccdn.runtime.quiet import no_warnings

if TYPE_CHECKING:
    import torch

    from ccdn.checkpoint.state import Checkpoint
    from ccdn.models import CCDN

BATCHES = (1, 2, 5)  # what the result is compared on; the example of the export has 2

# Crops (B, 3, S, S), float in [0, 1], to values of `ccdn.models.Output` by name.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class ExportError(RuntimeError):
    """The export differs from the network or cannot be made; the message is one line."""


def export(
    weights: Path,
    out: Path,
    kind: str,
    tolerance: float = 1e-4,
    keep_operators: bool = False,
    half: bool = False,
    opset: int = 18,
) -> float:
    """Write the network of a checkpoint to `out` and return the largest error of its landmarks and,
    of an ONNX file, spreads.

    kind: onnx | pt2 | safetensors; opset is that of onnx. Raises ExportError, and writes nothing,
    if the result differs from the network by more than `tolerance` of the crop; CheckpointError
    for invalid weights; ModuleNotFoundError if packages are missing.
    """
    from ccdn.checkpoint.load import load_model
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
            f"{out}: its results differ from the network's by {difference:.1e} of the crop,"
            f" expected at most {tolerance:.1e}; nothing was written"
        )
    with atomic_write(out) as file:
        file.write(content)
    return difference


def exported_program(
    model: CCDN, keep_operators: bool = False, spread: bool = False
) -> torch.export.ExportedProgram:
    """The network as a torch.export graph, crops (B, 3, S, S) to landmarks (B, L, 2), B open;
    with `spread` the spread (B, L) as well.
    """
    import torch

    import ccdn_ops.decompositions

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, crops: torch.Tensor) -> Any:
            found = self.network(crops)
            return (found.landmarks, found.spread) if spread else found.landmarks

    size = model.input_size
    crops = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            Outputs().eval(),
            (crops,),
            dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1)}},
        )
        if keep_operators:
            return program
        return program.run_decompositions(ccdn_ops.decompositions.table())


def _safetensors(checkpoint: Checkpoint, half: bool) -> bytes:
    from ccdn.checkpoint.safetensors_file import to_bytes

    return to_bytes(checkpoint, half)


def _run_safetensors(content: bytes) -> Run:
    import torch

    from ccdn.checkpoint.safetensors_file import from_bytes
    from ccdn.checkpoint.state import load_weights
    from ccdn.models import build_model

    checkpoint = from_bytes(content, Path("the result"))
    model = build_model(checkpoint.config.model).eval()
    load_weights(model, checkpoint.weights(), Path("the result"))

    @torch.no_grad()
    def run(crops: np.ndarray) -> dict[str, np.ndarray]:
        return {LANDMARKS: model(torch.from_numpy(crops)).landmarks.numpy()}

    return run


def _pt2(model: CCDN, keep_operators: bool) -> bytes:
    import torch

    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(exported_program(model, keep_operators), buffer)
    return buffer.getvalue()


def _run_pt2(content: bytes) -> Run:
    import torch

    with _quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    @torch.no_grad()
    def run(crops: np.ndarray) -> dict[str, np.ndarray]:
        return {LANDMARKS: module(torch.from_numpy(crops)).numpy()}

    return run


def _onnx(model: CCDN, checkpoint: Checkpoint, opset: int) -> bytes:
    import torch

    from ccdn.inference.torch_network import traits

    _need_onnx()
    outputs = [LANDMARKS, SPREAD] if model.config.spread else [LANDMARKS]
    program = exported_program(model, spread=model.config.spread)
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=outputs,
            opset_version=opset,
            verbose=False,
        )
        assert made is not None
        proto = made.model_proto
    written = next(entry.version for entry in proto.opset_import if not entry.domain)
    if written != opset:
        raise ExportError(f"torch {torch.__version__} wrote opset {written}, expected {opset}")
    _simplify(proto)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # names the open dimension otherwise; onnxruntime infers it
    model_config = config_to_dict(checkpoint.config)["model"]
    for key, value in metadata(traits(checkpoint), model_config).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto.SerializeToString()


def _simplify(proto: Any) -> None:
    """Rewrite the graph so that OpenCV's importer accepts it, too.

    Nodes that depend only on weights are computed, because the importer has no shapes for them, and
    an Unsqueeze of several axes becomes one for each axis.
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


def _run_onnx(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]

    def run(crops: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {INPUT: crops}), strict=True))

    return run


def _need_onnx() -> None:
    import importlib.util

    names = ("onnx", "onnxruntime", "onnxscript")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the ONNX export needs {', '.join(missing)};"
            f" `{sys.executable} -m pip install {' '.join(missing)}`"
        )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _compare(model: CCDN, run: Run) -> float:
    """The largest difference of a coordinate or spread over smooth and noisy crops of several
    batches.
    """
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
                expected = model(crops)
            for name, found in run(crops.numpy()).items():
                right = getattr(expected, name).numpy()
                if found.shape != right.shape:
                    raise ExportError(
                        f"the result gives {name} {found.shape}, the network {right.shape};"
                        " nothing was written"
                    )
                difference = float(np.abs(found - right).max())
                largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters about themselves and about packages that are not used."""
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
