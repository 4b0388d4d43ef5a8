"""What each CUDA kernel moves and how often its main loop turns, for gpu_model.py.

Both are known from the algorithm. A new kernel needs a line in WORK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from gpu_launches import Call, Launch, sizes

from ccdn_ops.newton_schulz_plan import products
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan

ITERATIONS = 5


@dataclass(frozen=True)
class Sizes:
    """What the formulas below are made of."""

    call: Call

    @cached_property
    def of(self) -> dict[str, int]:
        return sizes(self.call.operator, self.call.shape)

    @property
    def batch(self) -> int:
        return self.of["B"]

    @property
    def excitations(self) -> int:
        return self.of["P"]

    @property
    def channels(self) -> int:
        return self.of["D"]

    @property
    def positions(self) -> int:
        if self.call.operator in ("newton_schulz_sqrt", "newton_schulz_roots"):
            return self.channels
        return self.of["H"] * self.of["W"]

    @property
    def hidden(self) -> int:
        return self.of["R"]

    @property
    def element(self) -> int:
        return 2 if self.call.dtype == "bfloat16" else 4

    @cached_property
    def plan(self) -> DualSqueezePlan:
        sizes = self.channels, self.positions
        return dual_squeeze_plan(*sizes, ITERATIONS, self.call.dtype, "cuda")

    @property
    def side(self) -> int:
        """n: of the matrix that is iterated or that the recurrence multiplies by."""
        if self.call.operator == "isqrt_cov":
            return self.positions if self.by_positions else self.channels
        return min(self.channels, self.positions)

    @property
    def free(self) -> int:
        return max(self.channels, self.positions)

    @property
    def by_positions(self) -> bool:
        return self.call.operator == "isqrt_cov" and 10 * self.positions <= 9 * self.channels

    @property
    def pairs(self) -> int:
        return 2 * self.plan.rank + (2 if self.plan.side == "channels" else 0)

    def bytes(self, tensor: str) -> int:
        b, d, n = self.batch, self.channels, self.side
        x = b * d * self.positions * (self.excitations if self.call.operator == "cocs_loss" else 1)
        return {
            "x": x * self.element,
            "grad_x": x * self.element,
            "maps": x * self.excitations * self.element,
            "root": b * d * d * self.element,
            "covariance": b * d * d * 4,
            "between": x * 4,
            "gram": b * n * n * 4,
            "parts": b * n * n * 4,  # of each
            "panels": b * n * n * 4,
            "vectors": b * n * (2 * self.plan.terms + self.pairs) * 8,
            "factor": b * self.free * self.pairs * 4,
            "dense": b * n * n * 4,
            "lines": b * d * 8,
            "gates": b * self.excitations * d * 4,
            "hidden": b * self.excitations * 2 * self.hidden * 4,
            "weights": self.excitations * 4 * self.hidden * d * 4,
            "sums": self.excitations * d * 8,
        }[tensor]


# What each kernel does ---------------------------------------------------------------------------


class Work(NamedTuple):
    """Tensors that a launch reads and writes, and turns of its main loop for each block.

    turns None: the loop runs over what is read, which the blocks share. rounds: how often a block
    does all of it.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    turns: float | None = None
    rounds: int = 1


def _tiles(extent: int) -> int:
    return -(-extent // 64)


def _triangle(extent: int) -> int:
    return _tiles(extent) * (_tiles(extent) + 1) // 2


def _gram_matrix(s: Sizes, launch: Launch) -> Work:
    parts = max(1, launch.blocks // (s.batch * _triangle(s.side)))
    return Work(("x",), ("parts",) * parts if parts > 1 else ("gram",), s.free / parts / 32)


def _gram(s: Sizes, launch: Launch) -> Work:
    of_channels = launch.blocks == s.batch * _triangle(s.channels)
    depth = s.positions if of_channels else s.channels
    out = "root" if of_channels else "panels"
    expanded = ("between",) if launch.kernel.endswith(" 1") else ()
    return Work(("x", *expanded), (out,), depth / 32)


def _multiply(s: Sizes, launch: Launch) -> Work:
    form = launch.kernel.rpartition(" ")[2]
    if form == "0":  # by channels, backward
        return Work(("covariance", "x"), ("grad_x",), s.channels / 32)
    if form == "2":
        return Work(("panels", "panels", "x", "between"), ("grad_x",), 2 * s.positions / 32)
    if s.call.backward:
        return Work(("covariance", "x"), ("between",), s.channels / 32)
    return Work(("panels", "x"), ("between",), s.positions / 32)


def _symmetric_product(s: Sizes, launch: Launch) -> Work:
    terms = 2 if s.call.backward else 1
    return Work(("panels",) * (terms + 1), ("panels",), terms * -(-s.side // 32))


def _symmetric_chain(s: Sizes, launch: Launch) -> Work:
    """All products of the iteration or of its derivative, of matrices that are one tile each."""
    work = _symmetric_product(s, launch)
    return work._replace(rounds=products(ITERATIONS, s.by_positions))


def _recurrence_from_cache(s: Sizes, launch: Launch) -> Work:
    # Every term reads the matrix, each thread 12 numbers a turn.
    turns = s.plan.terms * s.side**2 / (12 * launch.threads)
    return Work(("gram",), ("vectors",) if s.call.backward else ("lines",), turns)


def _tile(reads: Sequence[str], writes: str, depth: Callable[[Sizes], float]) -> _Formula:
    """A product of 64 x 64 tiles: 32 of the depth a turn on tensor cores, else 16."""

    def work(s: Sizes, launch: Launch) -> Work:
        return Work(tuple(reads), (writes,), depth(s) / (32 if launch.threads == 128 else 16))

    return work


def _streams(reads: Sequence[str], *writes: str) -> _Formula:
    return lambda s, launch: Work(tuple(reads), writes)


_Formula = Callable[[Sizes, Launch], Work]

WORK: dict[str, _Formula] = {
    "channel_means": _streams(["x"], "lines"),
    "gram_matrix": _gram_matrix,
    "add_gram_parts": lambda s, launch: Work(
        ("parts",) * (_parts := max(2, round(256 / (s.batch * _triangle(s.side))))),
        ("gram",),
        _parts / 4,
    ),
    "weighted_sums": _streams(["x"], "lines"),
    "cluster_squeeze": lambda s, launch: Work(("gram",), ("lines",), s.plan.terms),
    "cluster_gradient": lambda s, launch: Work(("gram",), ("vectors",), s.plan.terms),
    "chebyshev_squeeze": _recurrence_from_cache,
    "chebyshev_gradient": _recurrence_from_cache,
    "squeeze_positions": _streams(["x"], "lines"),
    "store_numbers": lambda s, launch: Work((), (), 0),
    "pair_matrix": _tile(["vectors"], "dense", lambda s: s.pairs),
    "pair_projection": _tile(["x", "vectors"], "factor", lambda s: s.side),
    "expand_dense": _tile(["x", "dense"], "grad_x", lambda s: s.side),
    "expand_low_rank": _tile(["x", "factor", "vectors"], "grad_x", lambda s: s.pairs),
    "gates_reduce": _tile(["weights"], "hidden", lambda s: s.channels),
    "gates_expand": _tile(["weights", "hidden"], "gates", lambda s: 2 * s.hidden),
    "gates_expand_backward": _tile(
        ["weights", "gates", "hidden"], "weights", lambda s: max(s.channels, s.batch)
    ),
    "gates_reduce_backward": _tile(
        ["weights", "hidden"], "weights", lambda s: max(s.hidden * s.excitations, s.batch)
    ),
    "excite": lambda s, launch: Work(("gates", "x"), ("maps",), s.excitations / 4),
    "excite_backward": _streams(["x", "maps"], "grad_x"),
    "add_chunks": _streams(["gates"], "gates"),
    "pool_gates": _streams(["gates", "lines"], "gates"),
    "pool_gates_backward": _streams(["gates", "lines"], "gates"),
    "pool_mean_backward": _streams(["gates", "lines"], "lines"),
    "unit_sums": _streams(["x"], "sums"),
    "level_losses": _streams(["sums"], "sums"),
    "unit_gradients": _streams(["x"], "grad_x"),
    "covariance_traces": _streams(["lines"]),
    "sample_factors": lambda s, launch: Work((), (), 0),
    "gram": _gram,
    "multiply": _multiply,
    "symmetrise": _streams(["root"], "covariance"),
    "write_rows": _streams(["panels"], "root"),
    "symmetric_product": _symmetric_product,
    "inner_product": _streams(["panels", "panels"]),
    "scale_and_shift": _streams(["panels"], "panels"),
    "symmetric_chain": _symmetric_chain,
    "covariance_tiles": lambda s, launch: Work(("x",), ("root",), s.positions / 32),
    "finish_covariances": _streams(["lines"], "lines"),
    "matrix_traces": lambda s, launch: Work((), (), s.side / 256 / 16),
    "matrix_norms": _streams(["root", "root"]),
    "scale_and_add": _streams(["panels", "panels"], "panels"),
}
