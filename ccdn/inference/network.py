"""What prediction needs of a network, whatever computes it: torch or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Seen(NamedTuple):
    """What a network sees in B crops, in [0, 1] of the crop.

    landmarks: (B, L, 2). mirrored: the same from the mirrored crops, mirrored back; None if they
    were not looked at. spread: (B, L), the error it expects for each point; None if it has none.
    """

    landmarks: np.ndarray
    mirrored: np.ndarray | None = None
    spread: np.ndarray | None = None


class Curve(NamedTuple):
    """score = 1 / (1 + (error / half) ** power)."""

    half: float
    power: float

    def scores(self, errors: np.ndarray) -> np.ndarray:
        """The scores of errors of any shape."""
        return np.asarray(1 / (1 + (errors / self.half) ** self.power))


@dataclass(frozen=True, eq=False)
class Traits:
    """Of a network: how its crops are cut, and what it says of them.

    points: of a face, L. size: the side of a crop, S. margin: added to a face's box, as a share of
    its longer side. spread: whether it expects an error for each point. curve: of its score, by
    the spread where there is one, else by the mirror image. mean_shape: (L, 2) in [0, 1] of the
    crop, of the training faces.
    """

    points: int
    size: int
    margin: float
    spread: bool
    curve: Curve
    mean_shape: np.ndarray


class Network(Protocol):
    """A trained network. Several threads may share one."""

    @property
    def traits(self) -> Traits: ...

    @property
    def device(self) -> torch.device | str: ...

    def see(self, crops: np.ndarray, flip: Sequence[int] | None = None) -> Seen:
        """What it sees in uint8 RGB crops (B, 3, S, S), and, with `flip`, in their mirror images.

        flip: the permutation of the landmarks under mirroring, (L,).
        """
        ...


def mirrored_back(landmarks: np.ndarray, flip: Sequence[int]) -> np.ndarray:
    """Landmarks (B, L, 2) of mirrored crops, as those of the crops themselves."""
    found = landmarks[:, list(flip)]
    found[..., 0] = 1 - found[..., 0]
    return found
