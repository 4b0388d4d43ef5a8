"""dual_squeeze in Triton: what csrc/cuda/dual_squeeze.cu computes, in fewer lines.

The matrix C (n x n) of the side that the plan has chosen is formed once; the polynomial q_K is
applied to one vector in `terms` products with it, one program for each sample. Backward runs two
such recurrences side by side, from the start vector and from the gradient of the result; the plan's
factors of the gradient turn them into a few pairs of vectors, those into one n x n matrix P, and
the gradient is Xc P and what each entry adds to it, as in the dense form of dual_squeeze.cu.

Bytes and operations of a sample, float32: forward D N (x, three times, from L2 after the first),
n D N / 2 multiply-adds for C and n^2 terms in float64 for the recurrence; backward twice the
recurrence, n^2 rank for P and n D N for the gradient.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.backends.triton import features, launcher
from ccdn_ops.backends.triton.launcher import blocks, interpreted, supports
from ccdn_ops.plans import DualSqueezePlan, Table, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES


class Blocks(NamedTuple):
    """Edges of the blocks that the kernels work on."""

    tile: int  # of a matrix product
    depth: int  # of its slices
    pairs: int  # of a float64 sum of outer products: 64 x 64 would not fit four warps' registers
    line: int  # lines summed together
    along: int  # and the steps along them
    recurrence: int


# The interpreter works on whole arrays: few large blocks are what is fast there.
INTERPRETER_BLOCKS = Blocks(128, 256, 256, 64, 256, 256)
DEVICE_BLOCKS = Blocks(64, 16, 32, 16, 64, 64)


# By iterations and device. Nothing is ever dropped or replaced: a captured graph holds the
# addresses. There are as many as iterations.
_kept: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
_keeping = threading.Lock()


def _tables(plan: DualSqueezePlan, iterations: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the backward pass makes of its two recurrences, as rows of (terms,) coefficients.

    Of t_j from the start vector: q, the right factors R of the gradient, and A R; from the gradient
    of the result: q and the left factors. Copied to the device at the first call and kept. A first
    call that a CUDA graph captures may not copy from the host: its launches carry the numbers, in
    memory that is the graph's alone.
    """
    key = iterations, device
    if key in _kept:
        return _kept[key]
    if launcher.captured(device):
        return _rows(_carried(plan.table, device))
    with _keeping:
        if key not in _kept:
            # A thread of its own: this one's allocations may go to the pool of a graph to come
            # (torch.compile's "reduce-overhead"), which takes back what is in it. And done when it
            # ends: the tables may next be read on another stream.
            with ThreadPoolExecutor(1) as thread:
                _kept[key] = thread.submit(_copied, plan.table, device).result()
        return _kept[key]


def _copied(table: Table, device: torch.device) -> tuple[Tensor, Tensor]:
    of_start, of_gradient = _rows(torch.tensor(table.tolist(), dtype=torch.float64, device="cpu"))
    return of_start.to(device), of_gradient.to(device)


def _carried(table: Table, device: torch.device) -> Tensor:
    """The table on the device without a copy: launches take the numbers as arguments."""
    numbers = table.ravel().tolist()
    found = torch.zeros(len(numbers), dtype=torch.float64, device=device)
    torch._foreach_add_(list(found.unbind()), numbers)
    return found.view(table.shape)


def _rows(table: Tensor) -> tuple[Tensor, Tensor]:
    rank = (len(table) - 2) // 2
    q, left, right = table[:1], table[2 : 2 + rank], table[2 + rank :]
    # A t_0 = (t_0 + t_1) / 2 and A t_j = t_j / 2 + (t_{j-1} + t_{j+1}) / 4. No factor has the last
    # t_j, so that all of these are there.
    times_a = right / 2
    times_a[:, 1:] += right[:, :-1] / 4
    times_a[:, 1:2] += right[:, :1] / 4
    times_a[:, :-1] += right[:, 1:] / 4
    return torch.cat([q, right, times_a]), torch.cat([q, left])


class _Sample:
    """The features of a call, seen as free x side, and the launches that read them."""

    def __init__(self, x: Tensor, iterations: int) -> None:
        self.kernels = launcher.kernels("dual_squeeze")
        self.x = x
        self.batch, self.channels, self.positions = x.shape
        self.plan = dual_squeeze_plan(
            self.channels, self.positions, iterations, DTYPE_NAMES[x.dtype], "cuda"
        )
        self.channel_is_side = self.plan.side == "channels"
        stride_b, stride_d, stride_n = x.stride()
        if self.channel_is_side:
            self.side, self.free = self.channels, self.positions
            self.strides = stride_b, stride_n, stride_d
        else:
            self.side, self.free = self.positions, self.channels
            self.strides = stride_b, stride_d, stride_n
        self.block = INTERPRETER_BLOCKS if interpreted() else DEVICE_BLOCKS
        self.rest: Tensor  # of the mean

    def new(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.x.new_empty(shape, dtype=dtype)

    def launch(self, name: str, pieces: int, *arguments: Any, **options: Any) -> None:
        launcher.launch(getattr(self.kernels, name), self.batch * pieces, *arguments, **options)

    def gram(self, mean: Tensor, out: Tensor) -> None:
        tile = self.block.tile
        self.launch(
            "gram_matrix", blocks(self.side, tile) ** 2, self.x, mean, self.rest, out, self.free,
            self.side, self.positions, self.channels, *self.strides,
            MEAN="row" if self.channel_is_side else "column", BLOCK=tile,
            BLOCK_K=self.block.depth, num_warps=8,
        )  # fmt: skip

    def gram_product(self, gram: Tensor, vector: Tensor) -> Tensor:
        """gram (B, n, n) times vector (B, n)."""
        n = self.side
        return self._product(gram, gram, vector, n, n, (n * n, n, 1), "none")

    def side_sums(self, mean: Tensor, weights: Tensor | None) -> Tensor:
        """(B, side): the sum over the free axis of weights (B, free) or 1 times Xc."""
        stride_b, free_stride, side_stride = self.strides
        return self._product(
            self.x, mean, weights, self.side, self.free, (stride_b, side_stride, free_stride),
            "row" if self.channel_is_side else "column",
        )  # fmt: skip

    def free_sums(self, mean: Tensor, weights: Tensor) -> Tensor:
        """(B, free): the sum over the side of weights (B, side) times Xc."""
        mean_of = "column" if self.channel_is_side else "row"
        return self._product(self.x, mean, weights, self.free, self.side, self.strides, mean_of)

    def _product(
        self,
        matrix: Tensor,
        mean: Tensor,
        vector: Tensor | None,
        rows: int,
        columns: int,
        strides: tuple[int, int, int],
        mean_of: str,
    ) -> Tensor:
        out = self.new(self.batch, rows)
        block_r, block_c = self.block.line, self.block.along
        self.launch(
            "matrix_vector", blocks(rows, block_r), matrix, mean, self.rest,
            out if vector is None else vector, out, rows, columns, self.channels, *strides,
            MEAN=mean_of, ONES=vector is None, BLOCK_R=block_r, BLOCK_C=block_c,
        )  # fmt: skip
        return out

    def chebyshev_rows(self, gram: Tensor, trace: Tensor, starts: list[Tensor]) -> Tensor:
        """(B, starts, terms, n): the Chebyshev polynomials applied to each (B, n) of starts."""
        rows = self.new(self.batch, len(starts), self.plan.terms, self.side)
        for index, start in enumerate(starts):
            rows[:, index, 0] = start
        self.launch(
            "chebyshev_rows", len(starts), gram, trace, rows, self.side, self.plan.terms,
            len(starts), BLOCK=self.block.recurrence, num_warps=8,
        )  # fmt: skip
        return rows

    def combine(self, table: Tensor, rows: Tensor) -> Tensor:
        """(B, count, n): table (count, terms) times rows (B, terms, n)."""
        n, (count, terms) = self.side, table.shape
        out = self.new(self.batch, count, n)
        down, across = self.block.line, self.block.along
        self.launch(
            "combine_rows", blocks(count, down) * blocks(n, across), table, rows, out, n, terms,
            count, rows.stride(0), BLOCK_R=down, BLOCK_N=across,
        )  # fmt: skip
        return out


def forward(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """first, second, mean, trace, gram of x (B, D, N); see ccdn_ops/ops/dual_squeeze/spec.py."""
    sample = _Sample(x, iterations)
    batch, channels, positions = x.shape
    first = x.new_empty(batch, channels)
    mean, sample.rest, squares = features.means(x, first)
    trace = features.traces(mean, squares, positions)
    gram = sample.new(batch, sample.side, sample.side, dtype=torch.float32)
    sample.gram(mean, gram)
    constant = trace == 0

    start = x.new_ones((), dtype=torch.float64)
    if not sample.channel_is_side:
        start = sample.side_sums(mean, None)
    rows = sample.chebyshev_rows(gram, trace, [start])
    of_start, _ = _tables(sample.plan, iterations, x.device)
    result = sample.combine(of_start[:1], rows)
    scale = 1 / (trace.double().sqrt() * channels)
    if sample.channel_is_side:
        second = sample.gram_product(gram, result)
    else:
        second = sample.free_sums(mean, result)
        scale = scale / positions
    second = torch.where(constant[:, None], 0.0, scale[:, None] * second).to(x.dtype)
    if not sample.plan.saves_gram:
        gram = gram.new_empty(batch, 0, 0)
    return first, second, mean, trace, gram


def backward(
    grad_first: Tensor,
    grad_second: Tensor,
    x: Tensor,
    mean: Tensor,
    trace: Tensor,
    gram: Tensor,
    iterations: int,
) -> Tensor:
    """The gradient of x (B, D, N) with the strides of torch.empty_like(x)."""
    sample = _Sample(x, iterations)
    batch, channels, positions = x.shape
    rank, n = sample.plan.rank, sample.side
    tile, pairs = sample.block.tile, sample.block.pairs
    out = torch.empty_like(x)
    sample.rest = features.rest_of(x, mean)
    if not sample.plan.saves_gram:
        gram = sample.new(batch, n, n, dtype=torch.float32)
        sample.gram(mean, gram)
    wide_trace = trace.double()
    scale = wide_trace.sqrt() / channels  # [B]
    upstream = grad_second.double()
    if sample.channel_is_side:
        start = x.new_ones((), dtype=torch.float64)
        weight = scale[:, None] * upstream
        result_gradient = sample.gram_product(gram, weight) / wide_trace[:, None]
    else:
        start = sample.side_sums(mean, None)
        weight = (scale / (positions * wide_trace))[:, None] * upstream
        result_gradient = sample.side_sums(mean, weight)

    rows = sample.chebyshev_rows(gram, trace, [start, result_gradient])
    table_of_start, table_of_gradient = _tables(sample.plan, iterations, x.device)
    of_start = sample.combine(table_of_start, rows[:, 0])
    of_gradient = sample.combine(table_of_gradient, rows[:, 1])
    result, start_gradient = of_start[:, 0].contiguous(), of_gradient[:, 0].contiguous()
    left, right = of_gradient[:, 1:], of_start[:, 1 : 1 + rank]
    # From the very factors that make the matrix: in the gradient the two nearly cancel.
    with_matrix = 2 * (left * of_start[:, 1 + rank :]).sum((1, 2))
    with_result = (result_gradient * result).sum(1)
    trace_gradient = -(with_result / 2 + with_matrix) / wide_trace
    if sample.channel_is_side:
        left = torch.cat([left, weight[:, None] / 2], 1)
        right = torch.cat([right, result[:, None]], 1)
    left, right = left.contiguous(), right.contiguous()

    matrix = sample.new(batch, n, n, dtype=torch.float32)
    sample.launch(
        "pair_matrix", blocks(n, pairs) ** 2, left, right, 2 / (positions * wide_trace),
        2 * trace_gradient / positions, matrix, n, left.shape[1], BLOCK=pairs,
    )  # fmt: skip
    out_b, out_d, out_n = out.stride()
    out_strides = (out_b, out_n, out_d) if sample.channel_is_side else (out_b, out_d, out_n)
    sample.launch(
        "expand_gradient", blocks(sample.free, tile) * blocks(n, tile), x, mean, sample.rest,
        matrix, trace, grad_first, weight, start_gradient, result, out,
        sample.free, n, positions, channels, *sample.strides, *out_strides,
        MEAN="column" if sample.channel_is_side else "row", BLOCK_F=tile, BLOCK_S=tile,
        BLOCK_K=sample.block.depth, num_warps=8,
    )  # fmt: skip
    return out


registry.register(
    "dual_squeeze", backend="triton", forward=forward, backward=backward, supports=supports
)
