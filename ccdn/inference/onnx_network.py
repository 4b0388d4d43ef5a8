"""A network that ONNX Runtime computes, without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.checkpoint.errors import CheckpointError
from ccdn.inference.network import Seen, mirrored_back
from ccdn.inference.onnx_file import INPUT, LANDMARKS, SPREAD, traits_of
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.files import address_hint

ERRORS_ONLY = 3  # of ONNX Runtime's messages


class OnnxNetwork:
    """The network in an ONNX file of `ccdn export`, on the CPU.

    threads: of one call; None: one. Raises CheckpointError for any other file, ConfigError without
    the package onnxruntime.
    """

    device = "cpu"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self._session = _session(path, threads or 1)
        self.traits = traits_of(self._session.get_modelmeta().custom_metadata_map, path)
        self._outputs = [LANDMARKS, SPREAD] if self.traits.spread else [LANDMARKS]
        self._check_graph()

    def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
        """What it sees in uint8 RGB crops (B, 3, S, S); see `ccdn.inference.network`."""
        x = crops.astype(np.float32)
        x /= 255
        landmarks, *spread = self._session.run(self._outputs, {INPUT: x})
        mirrored = None
        if flip is not None:
            turned = np.ascontiguousarray(x[..., ::-1])
            (other,) = self._session.run([LANDMARKS], {INPUT: turned})
            mirrored = mirrored_back(other, flip)
        return Seen(landmarks, mirrored, spread[0] if spread else None)

    def _check_graph(self) -> None:
        """Raise CheckpointError unless the graph takes and gives what the metadata say."""
        size, points = self.traits.size, self.traits.points
        expected: dict[str, list[int]] = {INPUT: [3, size, size], LANDMARKS: [points, 2]}
        if self.traits.spread:
            expected[SPREAD] = [points]
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {value.name: value.shape[1:] for value in values if value.type == "tensor(float)"}
        if found != expected:
            raise CheckpointError(f"{self.path}: expected a graph with {expected}, found {found}")


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{path}: an ONNX file needs ONNX Runtime ({error});"
            f" `{sys.executable} -m pip install onnxruntime`"
        ) from None
    if not path.is_file():
        found = "a folder" if path.is_dir() else f"nothing{address_hint(path)}"
        raise CheckpointError(f"{path}: expected an ONNX file of ccdn export, found {found}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of several classes, depending on where the damage is
        raise CheckpointError(
            f"{path}: expected an ONNX file of ccdn export, found another kind of file or a"
            f" truncated or damaged one ({len(content)} bytes)"
        ) from error
