"""The layouts of blocks that can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# A child by its name in the block ("fc1", "conv_du.0"), or a function, for a block that calls one.
Step = str | Callable[[Tensor], Tensor]

Output = Literal["triu", "mean", "matrix", "flat"]


@dataclass(frozen=True)
class AttentionLayout:
    """Channel attention: x * gate(layers(squeeze of x)).

    Args:
        layers: the steps between the squeeze and the gate, in the order of their use.
        gate: the steps of the gate; more than one is unusual.
        squeeze: the mean over the positions, or the covariance squeeze (eq. 2 of CCDN).
        iterations: Newton-Schulz iterations of the covariance squeeze.
        window: the covariance covers the central window of a larger map; None: all of it.
    """

    layers: tuple[Step, ...]
    gate: tuple[Step, ...]
    squeeze: Literal["mean", "covariance"] = "mean"
    iterations: int = 5
    window: int | None = None

    def __str__(self) -> str:
        of: str = self.squeeze
        if of == "covariance":
            of += f", {self.iterations} iterations"
            of += f", central {self.window} positions" if self.window else ""
        return f"attention, {of}, {_spoken(self.layers)}, gate {_spoken(self.gate)}"


@dataclass(frozen=True)
class PoolingLayout:
    """The square root of the covariance after some children, the dimension reduction.

    Args:
        before: the children that x goes through first.
        output: "triu" (B, D (D + 1) / 2), "mean" (B, D), "matrix" (B, D, D), "flat" (B, D * D).
        iterations: Newton-Schulz iterations.
        trailing: how many dimensions of size 1 the output has after those.
    """

    before: tuple[str, ...] = ()
    output: Output = "triu"
    iterations: int = 5
    trailing: int = 0

    def __str__(self) -> str:
        before = f" after {_spoken(self.before)}" if self.before else ""
        return f"iSQRT-COV{before}, {self.iterations} iterations, output {self.output}"


@dataclass(frozen=True)
class FunctionLayout:
    """A function of a map (B, D, H, W) or of matrices (B, D, D), not a module.

    Args:
        kind: the covariance of a map, the Newton-Schulz root of matrices, the upper triangle of
        matrices, "pooled", the root of a map's covariance, or "inverse root" and "whitening"
        (whitening.py).
        output: of "pooled", as of PoolingLayout.
        iterations: the numbers of iterations for which it was verified.
        trailing: how many dimensions of size 1 a vector has after the others.
        argument: the name of the argument that is the number of iterations; "" if it has none.
        default: the number of iterations of a call that names none.
        rank: dimensions of the matrices of an inverse root, 2 or 3.
        norm: an inverse root divides by the Frobenius norm, not by the trace.
    """

    kind: Literal["covariance", "root", "triu", "pooled", "inverse root", "whitening"]
    output: Output = "matrix"
    iterations: tuple[int, ...] = (1,)
    trailing: int = 0
    argument: str = ""
    default: int | None = None
    rank: int = 3
    norm: bool = False

    # What the probes of attention ask for.
    squeeze = "covariance"

    @property
    def of_maps(self) -> bool:
        return self.kind in ("covariance", "pooled")

    def __str__(self) -> str:
        if self.kind == "covariance":
            return "covariance pooling"
        if self.kind == "triu":
            return "the upper triangle"
        counts = ", ".join(map(str, self.iterations))
        plural = "iteration" if self.iterations == (1,) else "iterations"
        if self.kind == "whitening":
            return f"IterNorm's whitening in training, {counts} {plural}"
        if self.kind == "inverse root":
            divisor = "Frobenius norm" if self.norm else "trace"
            return f"the Newton-Schulz inverse root by the {divisor}, {counts} {plural}"
        what = "the Newton-Schulz root" if self.kind == "root" else "iSQRT-COV"
        return f"{what}, {counts} {plural}, output {self.output}"


Layout = AttentionLayout | PoolingLayout | FunctionLayout


class Unfit(Exception):  # noqa: N818 - no error: the reason why a block is left as it is
    """A block is not what it was taken for, or cannot be verified; the message says why."""


class NearMiss(Unfit):
    """A block computes a layout on the first maps tried, but not in general."""


def _spoken(steps: tuple[Step, ...]) -> str:
    return " > ".join(s if isinstance(s, str) else getattr(s, "__name__", repr(s)) for s in steps)
