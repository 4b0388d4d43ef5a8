"""The Triton kernels of cocs_loss, two forward and two backward for any number of levels.

Napkin: features (B, P, D) are read once from memory and once more from L1: at (64, 4, 256) in
float32 0.26 MB a level, 0.1 us of an H100's memory, and 5 operations a number. So latency is all
there is: programs for 16 samples of an excitation (16 of them here) sum unit vectors, and one for
each level makes the loss of what they found, some hundred numbers; that one waits a few times for
L2, once for each excitation. Backward likewise: one for each level makes dL/dS, then the programs
for 16 samples apply it.

All arithmetic is in float64: at so few operations it costs nothing, and neither do squares overflow
nor do sums over the batch lose digits. `unit_sums` is compiled without fused multiply-adds: what
cancels, u + (-u), must be 0 for the loss to know that there is nothing.

The levels are tuples of pointers and sizes, their number is part of the kernel; the second axis of
the grid is the level.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

# As in torch.nn.functional.normalize, and sums whose inverse would be infinite.
SMALLEST_NORM = tl.constexpr(1e-12)
SMALLEST_SUM = tl.constexpr(1e-300)


@triton.jit
def unit_sums(
    levels, parts, batches, excitations, channels, strides_b, strides_p, strides_d,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """parts (chunks, P, D) of each level: the sum of f / max(|f|, 1e-12) over chunks of samples."""
    pid = tl.program_id(0)
    for i in tl.static_range(len(levels)):
        if (tl.program_id(1) == i) & (pid < tl.cdiv(batches[i], BLOCK_B) * excitations[i]):
            unit_sums_of(
                pid, levels[i], parts[i], batches[i], excitations[i], channels[i],
                strides_b[i], strides_p[i], strides_d[i], BLOCK_B, BLOCK_D,
            )  # fmt: skip


@triton.jit
def unit_sums_of(
    pid, x, part, batch, excitations, channels, stride_b, stride_p, stride_d,
    BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    p = (pid % excitations).to(tl.int64)
    chunk = (pid // excitations).to(tl.int64)
    b = chunk * BLOCK_B + tl.arange(0, BLOCK_B)
    x += p * stride_p
    squares = tl.zeros([BLOCK_B], tl.float64)
    for d0 in range(0, channels, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
        value = load_rows(x, b, d, batch, channels, stride_b, stride_d)
        squares += tl.sum(value * value, axis=1)
    norm = tl.sqrt(squares)
    scale = 1.0 / tl.where(norm < SMALLEST_NORM, SMALLEST_NORM, norm)
    part += (chunk * excitations + p) * channels
    for d0 in range(0, channels, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
        value = load_rows(x, b, d, batch, channels, stride_b, stride_d)
        tl.store(part + d, tl.sum(value * scale[:, None], axis=0), mask=d < channels)


@triton.jit
def load_rows(x, b, d, batch, channels, stride_b, stride_d):
    """Vectors b at channels d in float64, by way of float32, which 16-bit types need here."""
    inside = (b < batch)[:, None] & (d < channels)[None, :]
    at = x + b[:, None] * stride_b + d[None, :] * stride_d
    return tl.load(at, mask=inside, other=0.0).to(tl.float32).to(tl.float64)


@triton.jit
def level_losses(
    parts, sums, losses, chunks, excitations, channels, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr
):
    """sums (P, D) of each level, the parts added up, and its loss; a program for each."""
    level = tl.program_id(0)
    for i in tl.static_range(len(parts)):
        if level == i:
            size = excitations[i] * channels[i]
            for e0 in range(0, size, BLOCK_D):
                e = e0 + tl.arange(0, BLOCK_D).to(tl.int64)
                total = tl.zeros([BLOCK_D], tl.float64)
                for chunk in range(0, chunks[i]):
                    total += tl.load(parts[i] + chunk * size + e, mask=e < size, other=0.0)
                tl.store(sums[i] + e, total.to(tl.float32), mask=e < size)
            tl.debug_barrier()  # what some threads have written others read
            scale = inverse_size(sums[i], size, BLOCK_D)
            own, cross = products(
                sums[i], sums[i], scale, excitations[i], channels[i], False, BLOCK_P, BLOCK_D
            )
            loss = tl.where(scale == 0, cross - cross, cross / own)
            tl.store(losses + i, loss.to(tl.float32).to(losses.dtype.element_ty))


@triton.jit
def inverse_size(sums, size, BLOCK_D: tl.constexpr):
    """1 / the largest |S|, 0 where all are: L does not change with the size of S."""
    largest = tl.zeros([BLOCK_D], tl.float64)
    for e0 in range(0, size, BLOCK_D):
        e = e0 + tl.arange(0, BLOCK_D).to(tl.int64)
        value = tl.abs(tl.load(sums + e, mask=e < size, other=0.0).to(tl.float64))
        value = tl.where(value == value, value, float("inf"))  # a maximum may overlook a NaN
        largest = tl.where(value > largest, value, largest)
    most = tl.max(largest, axis=0)
    return tl.where(most < SMALLEST_SUM, 0.0, 1.0 / most)


@triton.jit
def products(
    sums, q, scale, excitations, channels,
    KEEP: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The sums of the squares of Q = S S^T, S (P, D) scaled, on its diagonal and off it.

    KEEP: q (P, P) is Q.
    """
    own = tl.zeros([BLOCK_P], tl.float64)
    cross = tl.zeros([BLOCK_P], tl.float64)
    for p0 in range(0, excitations, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P).to(tl.int64)
        for other in range(0, excitations):
            total = tl.zeros([BLOCK_P], tl.float64)
            for d0 in range(0, channels, BLOCK_D):
                d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
                rows = load_rows(sums, p, d, excitations, channels, channels, 1)
                row = tl.load(sums + other * channels + d, mask=d < channels, other=0.0)
                total += tl.sum(rows * scale * (row.to(tl.float64) * scale)[None, :], axis=1)
            if KEEP:
                tl.store(q + p * excitations + other, total, mask=p < excitations)
            own += tl.where(p == other, total * total, 0.0)
            cross += tl.where(p == other, 0.0, total * total)
    return tl.sum(own, axis=0), tl.sum(cross, axis=0)


@triton.jit
def sums_gradients(
    grad_losses, sums, qs, gradients, excitations, channels,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """gradients (P, D) = dL/dS of each level times its upstream gradient; a program for each.

    dL/dS_p = 4 (sum over p' != p of Q_pp' S_p' - L Q_pp S_p) / sum of Q_pp^2.
    """
    level = tl.program_id(0)
    for i in tl.static_range(len(sums)):
        if level == i:
            scale = inverse_size(sums[i], excitations[i] * channels[i], BLOCK_D)
            own, cross = products(
                sums[i], qs[i], scale, excitations[i], channels[i], True, BLOCK_P, BLOCK_D
            )
            tl.debug_barrier()
            upstream = tl.load(grad_losses + i).to(tl.float32).to(tl.float64)
            # cross - cross is NaN where the sums are not finite, and their scale 0 as well.
            factor = tl.where(scale == 0, cross - cross, 4.0 / own * scale * scale * upstream)
            loss = tl.where(scale == 0, 0.0, cross / own)
            combine(
                sums[i], qs[i], gradients[i], factor, loss, excitations[i], channels[i],
                BLOCK_P, BLOCK_D,
            )  # fmt: skip


@triton.jit
def combine(
    sums, q, gradient, factor, loss, excitations, channels,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    for p0 in range(0, excitations, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P).to(tl.int64)
        for d0 in range(0, channels, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
            total = tl.zeros([BLOCK_P, BLOCK_D], tl.float64)
            for other in range(0, excitations):
                weight = tl.load(q + p * excitations + other, mask=p < excitations, other=0.0)
                weight = tl.where(p == other, -loss * weight, weight)
                row = tl.load(sums + other * channels + d, mask=d < channels, other=0.0)
                total += weight[:, None] * row.to(tl.float64)[None, :]
            inside = (p < excitations)[:, None] & (d < channels)[None, :]
            total = tl.where(factor == 0, 0.0, factor * total)
            tl.store(gradient + p[:, None] * channels + d[None, :], total, mask=inside)


@triton.jit
def features_gradients(
    levels, gradients, outs, batches, excitations, channels, strides_b, strides_p, strides_d,
    out_strides_b, out_strides_p, out_strides_d, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """outs: with u = f / |f|, (g - u (u . g)) / |f|, and 0 for a vector without a direction."""
    pid = tl.program_id(0)
    for i in tl.static_range(len(levels)):
        if (tl.program_id(1) == i) & (pid < tl.cdiv(batches[i], BLOCK_B) * excitations[i]):
            features_gradient_of(
                pid, levels[i], gradients[i], outs[i], batches[i], excitations[i], channels[i],
                strides_b[i], strides_p[i], strides_d[i],
                out_strides_b[i], out_strides_p[i], out_strides_d[i], BLOCK_B, BLOCK_D,
            )  # fmt: skip


@triton.jit
def features_gradient_of(
    pid, x, gradient, out, batch, excitations, channels, stride_b, stride_p, stride_d,
    out_stride_b, out_stride_p, out_stride_d, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    p = (pid % excitations).to(tl.int64)
    b = (pid // excitations).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    x += p * stride_p
    gradient += p * channels
    out += p * out_stride_p
    squares = tl.zeros([BLOCK_B], tl.float64)
    cross = tl.zeros([BLOCK_B], tl.float64)
    for d0 in range(0, channels, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
        value = load_rows(x, b, d, batch, channels, stride_b, stride_d)
        grad = tl.load(gradient + d, mask=d < channels, other=0.0)
        squares += tl.sum(value * value, axis=1)
        cross += tl.sum(value * grad[None, :], axis=1)
    norm = tl.sqrt(squares)
    nowhere = norm < SMALLEST_NORM
    scale = 1.0 / tl.where(nowhere, 1.0, norm)
    along = cross / tl.where(nowhere, 1.0, squares) * scale
    for d0 in range(0, channels, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D).to(tl.int64)
        value = load_rows(x, b, d, batch, channels, stride_b, stride_d)
        grad = tl.load(gradient + d, mask=d < channels, other=0.0)
        found = grad[None, :] * scale[:, None] - value * along[:, None]
        found = tl.where(nowhere[:, None], 0.0, found).to(tl.float32)
        inside = (b < batch)[:, None] & (d < channels)[None, :]
        at = out + b[:, None] * out_stride_b + d[None, :] * out_stride_d
        tl.store(at, found.to(out.dtype.element_ty), mask=inside)
