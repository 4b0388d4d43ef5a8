"""dual_squeeze in Triton's interpreter: tests/ops/test_triton.py runs this file.

Not collected by itself: TRITON_INTERPRET=1 must be set before anything imports triton. Batches are
small, for the interpreter takes a second for what a device does in microseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from harness import (
    CHANNELS,
    KINDS,
    LAYOUTS,
    POSITIONS,
    check_close,
    check_exact,
    err,
    features,
    laid_out,
    tolerances,
    truth,
    upstream,
    values_and_gradient,
)
from torch import Tensor

import ccdn_ops
from ccdn_ops import dual_squeeze
from ccdn_ops.backends.triton import dual_squeeze as backend

MAP_NORESERVE = 0x4000  # Linux; newer versions of Python have it in mmap
# Both sides, one and several blocks of the interpreter, odd sizes, and 1 on either axis.
FEW = [(1, 1), (1, 49), (3, 2), (65, 1), (65, 49), (65, 81), (129, 81), (3, 1000), (513, 2)]


@pytest.fixture(autouse=True)
def triton_backend() -> Iterator[None]:
    assert backend.interpreted()
    with ccdn_ops.use_backend("triton"):
        yield


@pytest.fixture
def device_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "INTERPRETER_BLOCKS", backend.DEVICE_BLOCKS)


@pytest.mark.parametrize(("channels", "positions"), FEW)
def test_fp32_exact(channels: int, positions: int) -> None:
    check_exact("dominant", channels, positions, batch=1)


@pytest.mark.parametrize(("channels", "positions"), [(65, 70), (70, 65), (20, 150), (130, 17)])
def test_blocks_of_the_device(device_blocks: None, channels: int, positions: int) -> None:
    check_exact("dominant", channels, positions, batch=2, iterations=3)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("channels", "positions"), [(33, 20), (20, 49)])
def test_kinds(kind: str, channels: int, positions: int) -> None:
    check_exact(kind, channels, positions, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_full_grid(kind: str, channels: int, positions: int) -> None:
    check_exact(kind, channels, positions, batch=2)


@pytest.mark.parametrize(
    "iterations", [1, 2, 4, 7, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 6, 8, 9, 10))]
)
@pytest.mark.parametrize(("channels", "positions"), [(24, 10), (10, 24)])
def test_iterations(channels: int, positions: int, iterations: int) -> None:
    check_exact("dominant", channels, positions, batch=1, iterations=iterations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["dominant", "large"])
@pytest.mark.parametrize(("channels", "positions"), [(33, 20), (20, 33)])
def test_16_bit(kind: str, channels: int, positions: int, dtype: torch.dtype) -> None:
    check_exact(kind, channels, positions, batch=1, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 24, 3, 5), (2, 10, 8, 6)])
def test_memory_layouts(layout: str, shape: tuple[int, ...]) -> None:
    x = laid_out(features("dominant", *shape[:2], shape[2] * shape[3]).view(shape), layout)
    g = upstream(x)
    found = values_and_gradient(dual_squeeze, x, (g, g), 2)
    exact = truth(x.contiguous(), (g, g), 2)
    check_close(found, exact, tolerances(x, (g, g), 2, exact), f"{layout} {shape}")
    if layout in ("contiguous", "channels_last"):
        assert found[2].stride() == x.stride()


@pytest.mark.parametrize(("channels", "positions"), [(12, 40), (40, 12)])
def test_samples_are_apart(channels: int, positions: int) -> None:
    x = features("dominant", 3, channels, positions)
    g = upstream(x)
    clean = values_and_gradient(dual_squeeze, x, (g, g), 2)
    x[1, 2, 3] = float("nan")
    x[2] = 0.7
    dirty = values_and_gradient(dual_squeeze, x, (g, g), 2)
    for before, after in zip(clean, dirty, strict=True):
        assert after[0].equal(before[0])
    assert dirty[1][1].isnan().all()
    assert dirty[2][1].isnan().any()
    assert (dirty[1][2] == 0).all()
    assert err(dirty[2][2], g[2][:, None].expand_as(x[2]) / positions) < 1e-6


def test_one_position() -> None:
    x = features("noise", 2, 9, 1)
    g = upstream(x)
    first, second, grad = values_and_gradient(dual_squeeze, x, (g, g), 5)
    assert first.equal(x[..., 0])
    assert (second == 0).all()
    assert grad.equal(g[..., None])


def test_runs_are_bit_equal() -> None:
    x = features("dominant", 1, 30, 20)
    g = upstream(x)
    once = values_and_gradient(dual_squeeze, x, (g, g), 3)
    again = values_and_gradient(dual_squeeze, x.clone(), (g.clone(), g.clone()), 3)
    assert all(a.equal(b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize(("channels", "positions"), [(12, 40), (40, 12)])
@pytest.mark.parametrize("backward_by", ["triton", "reference"])
def test_halves_of_two_backends(channels: int, positions: int, backward_by: str) -> None:
    x = features("dominant", 1, channels, positions)
    g = upstream(x)
    exact = truth(x, (g, g), 3)
    leaf = x.clone().requires_grad_()
    with ccdn_ops.use_backend("reference" if backward_by == "triton" else "triton"):
        outputs = dual_squeeze(leaf, 3)
    with ccdn_ops.use_backend(backward_by):
        (grad,) = torch.autograd.grad(outputs, leaf, (g, g))
    found = (outputs[0].detach(), outputs[1].detach(), grad)
    check_close(found, exact, tolerances(x, (g, g), 3, exact), f"backward by {backward_by}")


def _spread_out(x: Tensor, stride_b: int) -> Tensor:
    """x with its samples `stride_b` entries apart, in memory of which only they are touched."""
    batch, channels, positions = x.shape
    size = (batch - 1) * stride_b + channels * positions
    pages = mmap.mmap(-1, size * x.element_size(), flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
    room = torch.from_numpy(np.frombuffer(pages, dtype=x.numpy().dtype))
    view = room.as_strided(x.shape, (stride_b, positions, 1))
    view.copy_(x)
    return view


@pytest.mark.parametrize(("channels", "positions"), [(6, 10), (10, 6)])
def test_offsets_beyond_32_bits(channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float16)
    g = upstream(x)
    near = values_and_gradient(dual_squeeze, x, (g, g), 2)
    far = values_and_gradient(dual_squeeze, _spread_out(x, 2**31 + 1000), (g, g), 2)
    assert all(a.equal(b) for a, b in zip(near, far, strict=True))


def test_float64_is_left_to_others() -> None:
    with pytest.raises(RuntimeError, match=r"'triton', which cannot.*no float64"):
        dual_squeeze(torch.randn(1, 2, 3, dtype=torch.float64))


def test_vmap_of_one_sample() -> None:
    # What is saved for the gradient arrives expanded, its stride 0.
    x = features("dominant", 1, 5, 8)
    _, pullback = torch.func.vjp(lambda x: dual_squeeze(x)[1], x)
    (found,) = torch.func.vmap(pullback)(torch.eye(5).unsqueeze(1))
    for g, grad in zip(torch.eye(5), found, strict=True):
        assert err(grad, pullback(g.unsqueeze(0))[0]) < 5e-7


@pytest.mark.parametrize(("channels", "positions"), [(5, 8), (8, 5)])
def test_variance_too_small_for_float32(channels: int, positions: int) -> None:
    x = 1e-25 * features("noise", 2, channels, positions)
    g = upstream(x)
    _, second, grad = values_and_gradient(dual_squeeze, x, (None, g), 5)
    assert (second == 0).all()
    assert (grad == 0).all()
