"""Measures several methods on the same faces: runs networks and reads files of predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ccdn.config import Config
from ccdn.data import BENCHMARKS, CropDataset, FaceSet
from ccdn.evaluation.landmark_files import PredictionFile
from ccdn.evaluation.metrics import Array
from ccdn.evaluation.protocols import Protocol
from ccdn.evaluation.scoring import MEAN_SHAPE, Reference, SplitResult, score
from ccdn.inference.crops import Predictions
from ccdn.inference.distributed import predict_shared
from ccdn.plan.faces import evaluation_crops, size_boxes
from ccdn.runtime.processes import ALONE, Processes
from ccdn.runtime.progress import bar

if TYPE_CHECKING:
    import torch

    from ccdn.checkpoint.state import Checkpoint
    from ccdn.models import CCDN


@dataclass(frozen=True)
class Network:
    """Trained weights under a name. config: its own, with the data that are measured on."""

    name: str
    path: Path
    model: CCDN
    checkpoint: Checkpoint
    config: Config


@dataclass(frozen=True)
class NetworkRun:
    """A network's predictions for a set of faces, its crops, and the faces per second."""

    network: Network
    predictions: Predictions
    crops: CropDataset
    faces_per_second: float


@dataclass(frozen=True)
class Measured:
    """One set of faces that was opened, with the results of its subsets. split: its name.

    predicted: every method's landmarks, (N, L, 2) pixels, in the order of the reference.
    """

    split: str
    reference: Reference
    predicted: Mapping[str, Array]
    results: Sequence[SplitResult]
    runs: Sequence[NetworkRun] = ()
    description: dict[str, Any] = field(default_factory=dict)


def reference_of(
    faces: FaceSet, kind: str, opened: str, splits: Sequence[str], protocol: Protocol | None
) -> Reference:
    """The annotation of an opened split and of those that are read off it; reads no image."""
    found = [faces.face(i) for i in range(len(faces))]
    return Reference(
        [face.name for face in found],
        np.stack([face.landmarks for face in found]).astype(np.float64),
        size_boxes(faces),
        {split: BENCHMARKS[kind].members(faces, opened, split) for split in splits},
        {} if protocol is None else protocol.sizes,
    )


def measure(
    split: str,
    reference: Reference,
    faces: FaceSet | None,
    networks: Sequence[Network],
    files: Mapping[str, PredictionFile],
    device: torch.device,
    batch_size: int,
    flip_test: bool,
    processes: Processes = ALONE,
) -> Measured:
    """Run the networks, shared by the processes, align the files, score all on every subset; the
    mean shape of the first network's training faces comes last.
    """
    predicted: dict[str, Array] = {}
    runs = []
    for network in networks:
        assert faces is not None
        crops = evaluation_crops(faces, network.config)
        label = split if len(networks) == 1 else f"{split}, {network.name}"
        start = time.perf_counter()
        found = predict_shared(
            processes,
            network.model,
            crops,
            network.checkpoint.mean_shape.numpy(),
            device,
            batch_size,
            flip_test,
            progress=lambda starts, label=label: bar(starts, label),  # type: ignore[misc]
        )
        seconds = time.perf_counter() - start
        crops.missing_boxes.update(*processes.gather(crops.missing_boxes))
        runs.append(NetworkRun(network, found, crops, len(crops) / seconds))
        predicted[network.name] = found.predicted
    for name, file in files.items():
        predicted[name] = file.aligned(reference)
    if runs:
        predicted[MEAN_SHAPE] = runs[0].predictions.mean_shape
    return Measured(split, reference, predicted, score(reference, predicted), runs)
