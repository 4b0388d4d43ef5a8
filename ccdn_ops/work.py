"""The work that a call of an operator takes: the numbers of explain() and of the benchmarks.

For the operator X, the function `work` in ops/X/spec.py counts it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """The arguments of a call other than the shape of its first one; each operator reads its own.

    literal: the reference serves it, forming and iterating the matrices as the papers do.
    hidden: R of the bottleneck networks; None: D / 4.
    save: the forward pass keeps what the backward pass would otherwise recompute.
    """

    iterations: int = 5
    excitations: int = 4
    orders: int = 2
    hidden: int | None = None
    triu: bool = False
    norm: bool = False
    save: bool = True
    literal: bool = False


@dataclass(frozen=True)
class Work:
    """(forward, backward) totals for the whole batch.

    Args:
        algorithm: in a few words.
        bytes: the memory traffic if every tensor moved once: inputs, outputs, what is saved between
            the passes, and the gradients of all inputs.
        operations: multiplications and additions of the algorithm.
        side: which matrix it works on, D x D ("channels") or N x N ("positions"), if on one.
    """

    algorithm: str
    bytes: tuple[int, int]
    operations: tuple[int, int]
    side: str | None = None
