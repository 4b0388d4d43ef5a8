"""A network that torch computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ccdn.checkpoint.load import load_model
from ccdn.checkpoint.state import Checkpoint
from ccdn.inference.network import Seen, Traits, mirrored_back
from ccdn.inference.scores import MIRROR, SPREAD
from ccdn.models import CCDN
from ccdn.models.folding import folded
from ccdn.runtime.torch_threads import threads_for, torch_threads


class TorchNetwork:
    """A trained network of a checkpoint, prepared for prediction: its batch norms are folded into
    its convolutions, and on a CPU its kernels are stored with the channels last.

    threads: of one call; None: one up to `ccdn.runtime.torch_threads.SMALL_BATCH` faces, torch's
    own number for more. prepare=False takes the model as it is, in evaluation mode.
    """

    def __init__(
        self,
        model: CCDN,
        checkpoint: Checkpoint,
        threads: int | None = None,
        prepare: bool = True,
    ) -> None:
        self.model = _prepared(model) if prepare else model.eval()
        self.checkpoint = checkpoint
        self.threads = threads
        self.traits = traits(checkpoint)
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls, path: Path, device: str | torch.device = "cpu", threads: int | None = None
    ) -> TorchNetwork:
        """The network of a checkpoint. Raises CheckpointError for any other file."""
        return cls(*load_model(path, device), threads)

    def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
        """What it sees in uint8 RGB crops (B, 3, S, S); see `ccdn.inference.network`."""
        with torch_threads(threads_for(len(crops), self.threads)):
            return look(self.model, torch.from_numpy(crops).to(self.device), flip)


def _prepared(model: CCDN) -> CCDN:
    found = folded(model)
    if next(model.parameters()).device.type == "cpu":  # a tenth to a quarter faster there
        found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def traits(checkpoint: Checkpoint) -> Traits:
    """What a checkpoint says of its network."""
    config = checkpoint.config
    return Traits(
        config.model.points,
        config.model.input_size,
        config.data.margin,
        config.model.spread,
        SPREAD if config.model.spread else MIRROR,
        checkpoint.mean_shape.numpy(),
    )


@torch.no_grad()
def look(model: nn.Module, images: Tensor, flip: Sequence[int] | None = None) -> Seen:
    """What a network sees in uint8 crops (B, 3, S, S), and, with `flip`, in their mirror images.

    flip: the permutation of the landmarks under mirroring, (L,). The model keeps its mode.
    """
    x = images.to(_dtype(model)).div_(255)
    output = model(x)
    landmarks, spread = _array(output.landmarks), getattr(output, "spread", None)
    mirrored = None if flip is None else mirrored_back(_array(model(x.flip(3)).landmarks), flip)
    return Seen(landmarks, mirrored, None if spread is None else _array(spread))


def _array(found: Tensor) -> Any:
    """Float64 stays, other kinds, some of which NumPy lacks, become float32."""
    wide = found if found.dtype == torch.float64 else found.float()
    return wide.cpu().numpy()


def _dtype(model: nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters()), torch.float32)
