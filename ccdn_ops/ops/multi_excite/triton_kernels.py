"""The Triton kernels of multi_excite: a copy with a multiply.

Napkin, for a map of D N entries of s bytes: forward (1 + P) D N s bytes, P D N multiplications;
backward (2 + P) D N s bytes and 4 P D N operations, in one pass over x and the P gradients, and
what a tile sums for grad_gates: 4 / (s BLOCK_N) of a gradient's bytes. At half an operation a byte
the memory bounds both, on any device: at (64, 256, 32 x 32), P = 4, float32, forward moves 336 MB,
0.10 ms at an H100's 3.35 TB/s and 0.07 ms at an H200's 4.8.

Both memory orders are strides: where that of the channels is 1 the tile is long along them, and
Triton, which compiles a 1 as a constant, reads along it. Offsets are int64.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of_sample(pid, channels, positions, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):
    """The sample, the tile along the positions, and the channels and positions of a program."""
    down = tl.cdiv(channels, BLOCK_D)
    across = tl.cdiv(positions, BLOCK_N)
    tile = (pid % across).to(tl.int64)
    d = (pid // across % down).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    return (pid // (across * down)).to(tl.int64), tile, d, n


@triton.jit
def excite(
    x, gates, out, excitations, channels, positions, map_size, stride_b, stride_d, stride_n,
    out_stride_d, out_stride_n, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out[b, p, d, n] = x[b, d, n] gates[b, p, d]; maps of out are dense, map_size entries each."""
    b, _, d, n = tile_of_sample(tl.program_id(0), channels, positions, BLOCK_D, BLOCK_N)
    inside = (d < channels)[:, None] & (n < positions)[None, :]
    at = x + b * stride_b + d[:, None] * stride_d + n[None, :] * stride_n
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    gates += b * excitations * channels + d
    at = out + b * excitations * map_size + d[:, None] * out_stride_d + n[None, :] * out_stride_n
    for _ in range(0, excitations):
        gate = tl.load(gates, mask=d < channels, other=0.0)
        tl.store(at, (value * gate[:, None]).to(out.dtype.element_ty), mask=inside)
        gates += channels
        at += map_size


@triton.jit
def excite_gradient(
    grad_out, x, gates, grad_x, sums, batch, excitations, channels, positions,
    grad_stride_b, grad_stride_p, grad_stride_d, grad_stride_n, stride_b, stride_d, stride_n,
    out_stride_b, out_stride_d, out_stride_n, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """grad_x, and of grad_gates what each tile sees: sums (tiles along the positions, B, P, D)."""
    b, tile, d, n = tile_of_sample(tl.program_id(0), channels, positions, BLOCK_D, BLOCK_N)
    inside = (d < channels)[:, None] & (n < positions)[None, :]
    at = x + b * stride_b + d[:, None] * stride_d + n[None, :] * stride_n
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    gates += b * excitations * channels + d
    sums += (tile * batch + b) * excitations * channels + d
    grad_out += b * grad_stride_b
    at = grad_out + d[:, None] * grad_stride_d + n[None, :] * grad_stride_n
    total = tl.zeros([BLOCK_D, BLOCK_N], tl.float32)
    for _ in range(0, excitations):
        grad = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(gates, mask=d < channels, other=0.0)
        total += grad * gate[:, None]
        tl.store(sums, tl.sum(grad * value, axis=1), mask=d < channels)
        gates += channels
        sums += channels
        at += grad_stride_p
    at = grad_x + b * out_stride_b + d[:, None] * out_stride_d + n[None, :] * out_stride_n
    tl.store(at, total.to(grad_x.dtype.element_ty), mask=inside)
