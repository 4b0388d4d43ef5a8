"""The Triton kernels of excitation_gates: P O bottlenecks of two small matrices each.

Napkin: the weights are 2 P O D R numbers, read by every block of 32 samples: at P = 4, O = 2,
D = 256, R = 64 that is 1 MB a block, 0.3 us of an H100's memory for the first and less from L2 for
the others; 4 P O D R operations a sample, 34 million for 64 samples, 0.6 us of float32 arithmetic.
So latency bounds them: two launches forward and three backward, each of many small programs (128
for 64 samples), whose products are plain float32, as exact as the reference's.

Backward takes l = grad s (1 - s), the gradient of the sigmoids' arguments, up again where it needs
it: it is P O D numbers a sample, as many as would be stored and read.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from ccdn_ops.backends.triton.features_kernels import slice_product


@triton.jit
def load_tile(matrix, row, column, rows, columns):
    """matrix (rows, columns), contiguous, at row x column; 0 outside."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(matrix + row[:, None] * columns + column[None, :], mask=inside, other=0.0)


@triton.jit
def load_samples(tensor, sample, column, batch, columns, stride_b):
    """tensor at (sample, column), samples stride_b apart; 0 outside."""
    inside = (sample < batch)[:, None] & (column < columns)[None, :]
    return tl.load(tensor + sample[:, None] * stride_b + column[None, :], mask=inside, other=0.0)


@triton.jit
def store_samples(tensor, value, sample, column, batch, columns, stride_b):
    inside = (sample < batch)[:, None] & (column < columns)[None, :]
    tl.store(tensor + sample[:, None] * stride_b + column[None, :], value, mask=inside)


@triton.jit
def logit_gradient(
    grad_gates, scales, excitation, network, sample, d, batch, excitations, networks, channels
):
    """grad s (1 - s) of one network, an (excitation, order), at sample x d."""
    grad = load_samples(
        grad_gates + excitation.to(tl.int64) * channels,
        sample,
        d,
        batch,
        channels,
        excitations * channels,
    )
    scale = load_samples(
        scales + network * channels, sample, d, batch, channels, networks * channels
    )
    return grad * scale * (1.0 - scale)


@triton.jit
def layer(
    x, weight, bias, sample, out, batch, inputs, outputs, stride_b,
    BLOCK_B: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
):  # fmt: skip
    """x weight^T + bias at sample x out: x (B, inputs), samples stride_b apart."""
    total = tl.zeros([BLOCK_B, BLOCK_OUT], tl.float32)
    for i0 in range(0, inputs, BLOCK_IN):
        i = i0 + tl.arange(0, BLOCK_IN).to(tl.int64)
        left = load_samples(x, sample, i, batch, inputs, stride_b)
        right = load_tile(weight, out, i, outputs, inputs)
        total += slice_product(left, tl.trans(right))
    return total + tl.load(bias + out, mask=out < outputs, other=0.0)[None, :]


@triton.jit
def hidden_layer(
    first, second, weight, bias, hidden, batch, excitations, orders, channels, units,
    BLOCK_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """hidden (B, P, O, R) = max(kappa_o W_V^T + bias, 0)."""
    across = tl.cdiv(units, BLOCK_R)
    down = tl.cdiv(batch, BLOCK_B)
    pid = tl.program_id(0)
    network = (pid // (across * down)).to(tl.int64)
    sample = (pid // across % down).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    r = (pid % across).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    kappa = first
    if pid // (across * down) % orders == 1:
        kappa = second
    total = layer(
        kappa, weight + network * units * channels, bias + network * units, sample, r,
        batch, channels, units, channels, BLOCK_B, BLOCK_R, BLOCK_D,
    )  # fmt: skip
    total = tl.where(total < 0, 0.0, total)  # tl.maximum would lose a NaN
    store_samples(
        hidden + network * units, total, sample, r, batch, units, excitations * orders * units
    )


@triton.jit
def gates_layer(
    hidden, weight, bias, gates, scales, batch, excitations, orders, channels, units,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """scales (B, P, O, D) = sigmoid(hidden W_U^T + bias), gates (B, P, D) their sum over O."""
    across = tl.cdiv(channels, BLOCK_D)
    down = tl.cdiv(batch, BLOCK_B)
    pid = tl.program_id(0)
    excitation = (pid // (across * down)).to(tl.int64)
    sample = (pid // across % down).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = (pid % across).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    networks = excitations * orders
    gate = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for order in range(0, orders):
        network = excitation * orders + order
        total = layer(
            hidden + network * units, weight + network * channels * units,
            bias + network * channels, sample, d,
            batch, units, channels, networks * units, BLOCK_B, BLOCK_D, BLOCK_R,
        )  # fmt: skip
        scale = 1.0 / (1.0 + tl.exp(-total))
        at = scales + network * channels
        store_samples(at, scale, sample, d, batch, channels, networks * channels)
        gate += scale
    at = gates + excitation * channels
    store_samples(at, gate, sample, d, batch, channels, excitations * channels)


@triton.jit
def hidden_gradient(
    grad_gates, scales, hidden, weight, grad_hidden, batch, excitations, orders, channels, units,
    BLOCK_B: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_hidden (B, P, O, R) = l W_U where the hidden unit is not 0."""
    across = tl.cdiv(units, BLOCK_R)
    down = tl.cdiv(batch, BLOCK_B)
    pid = tl.program_id(0)
    network = (pid // (across * down)).to(tl.int64)
    sample = (pid // across % down).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    r = (pid % across).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    networks = excitations * orders
    total = tl.zeros([BLOCK_B, BLOCK_R], tl.float32)
    for d0 in range(0, channels, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
        left = logit_gradient(
            grad_gates, scales, pid // (across * down) // orders, network, sample, d,
            batch, excitations, networks, channels,
        )  # fmt: skip
        right = load_tile(weight + network * channels * units, d, r, channels, units)
        total += slice_product(left, right)
    unit = load_samples(hidden + network * units, sample, r, batch, units, networks * units)
    total = tl.where(unit <= 0, 0.0, total)
    at = grad_hidden + network * units
    store_samples(at, total, sample, r, batch, units, networks * units)


@triton.jit
def squeeze_gradient(
    grad_hidden, weight, grad_first, grad_second, batch, excitations, orders, channels, units,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """The gradient of kappa_o (B, D): the sum over the excitations of grad_hidden W_V."""
    across = tl.cdiv(channels, BLOCK_D)
    down = tl.cdiv(batch, BLOCK_B)
    pid = tl.program_id(0)
    order = (pid // (across * down)).to(tl.int64)
    sample = (pid // across % down).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = (pid % across).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    networks = excitations * orders
    total = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for excitation in range(0, excitations):
        network = excitation * orders + order
        for r0 in range(0, units, BLOCK_R):
            r = r0 + tl.arange(0, BLOCK_R).to(tl.int64)
            at = grad_hidden + network * units
            left = load_samples(at, sample, r, batch, units, networks * units)
            right = load_tile(weight + network * units * channels, r, d, units, channels)
            total += slice_product(left, right)
    out = grad_first
    if order == 1:
        out = grad_second
    store_samples(out, total, sample, d, batch, channels, channels)


@triton.jit
def weight_gradients(
    grad_gates, scales, hidden, grad_hidden, first, second,
    grad_reduce, grad_reduce_bias, grad_expand, grad_expand_bias,
    batch, excitations, orders, channels, units,
    BLOCK_D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Of one network: W_V from grad_hidden kappa, W_U from l hidden, summed over the samples.

    The programs of the first column of blocks sum the bias of W_U, those of the first row that of
    W_V.
    """
    across = tl.cdiv(units, BLOCK_R)
    down = tl.cdiv(channels, BLOCK_D)
    pid = tl.program_id(0)
    network = (pid // (across * down)).to(tl.int64)
    tile_d = (pid // across % down).to(tl.int64)
    tile_r = (pid % across).to(tl.int64)
    d = tile_d * BLOCK_D + tl.arange(0, BLOCK_D).to(tl.int64)
    r = tile_r * BLOCK_R + tl.arange(0, BLOCK_R).to(tl.int64)
    networks = excitations * orders
    kappa = first
    if pid // (across * down) % orders == 1:
        kappa = second
    reduce = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    expand = tl.zeros([BLOCK_D, BLOCK_R], tl.float32)
    reduce_bias = tl.zeros([BLOCK_R], tl.float32)
    expand_bias = tl.zeros([BLOCK_D], tl.float32)
    for b0 in range(0, batch, BLOCK_B):
        sample = b0 + tl.arange(0, BLOCK_B).to(tl.int64)
        logit = logit_gradient(
            grad_gates, scales, pid // (across * down) // orders, network, sample, d,
            batch, excitations, networks, channels,
        )  # fmt: skip
        unit = load_samples(hidden + network * units, sample, r, batch, units, networks * units)
        at = grad_hidden + network * units
        grad_unit = load_samples(at, sample, r, batch, units, networks * units)
        squeeze = load_samples(kappa, sample, d, batch, channels, channels)
        expand += slice_product(tl.trans(logit), unit)
        reduce += slice_product(tl.trans(grad_unit), squeeze)
        expand_bias += tl.sum(logit, axis=0)
        reduce_bias += tl.sum(grad_unit, axis=0)
    inside = (d < channels)[:, None] & (r < units)[None, :]
    at = grad_expand + network * channels * units + d[:, None] * units + r[None, :]
    tl.store(at, expand, mask=inside)
    inside = (r < units)[:, None] & (d < channels)[None, :]
    at = grad_reduce + network * units * channels + r[:, None] * channels + d[None, :]
    tl.store(at, reduce, mask=inside)
    tl.store(
        grad_expand_bias + network * channels + d, expand_bias, mask=(d < channels) & (tile_r == 0)
    )
    tl.store(grad_reduce_bias + network * units + r, reduce_bias, mask=(r < units) & (tile_d == 0))
