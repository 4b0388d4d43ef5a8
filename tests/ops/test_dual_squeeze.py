"""dual_squeeze on every backend that serves CPU tensors: the numbers and the edges."""

from __future__ import annotations

import pytest
import torch
from harness import (
    KINDS,
    LAYOUTS,
    SHAPES,
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
from hypothesis import given, settings
from hypothesis import strategies as st

import ccdn_ops
from ccdn_ops import dual_squeeze, reference

FEW = [(3, 2), (65, 49), (129, 81), (65, 1000)]


@pytest.mark.parametrize(("channels", "positions"), SHAPES)
def test_fp32_exact(backend: str, channels: int, positions: int) -> None:
    check_exact("dominant", channels, positions)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("channels", "positions"), FEW)
def test_fp32_exact_kinds(backend: str, kind: str, channels: int, positions: int) -> None:
    check_exact(kind, channels, positions)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(("channels", "positions"), [s for s in SHAPES if s not in FEW])
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    check_exact(kind, channels, positions)


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize(("channels", "positions"), [(48, 20), (20, 48)])
def test_iterations(backend: str, channels: int, positions: int, iterations: int) -> None:
    check_exact("dominant", channels, positions, iterations=iterations)
    check_exact("noise", channels, positions, iterations=iterations, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 49), (33, 130)])
def test_other_dtypes(
    backend: str, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    check_exact(kind, channels, positions, dtype=dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 24, 3, 5), (2, 10, 8, 6), (2, 5, 1, 7), (2, 5, 7, 1)])
def test_memory_layouts(backend: str, layout: str, shape: tuple[int, ...]) -> None:
    x = laid_out(features("dominant", *shape[:2], shape[2] * shape[3]).view(shape), layout)
    g = upstream(x)
    found = values_and_gradient(dual_squeeze, x, (g, g), 5)
    exact = truth(x.contiguous(), (g, g), 5)
    check_close(found, exact, tolerances(x, (g, g), 5, exact), f"{layout} {shape}")
    if layout in ("contiguous", "channels_last"):
        assert found[2].stride() == x.stride()


def test_rank_3_is_rank_4(backend: str) -> None:
    x = features("dominant", 2, 6, 12)
    for flat, deep in zip(dual_squeeze(x), dual_squeeze(x.view(2, 6, 3, 4)), strict=True):
        assert flat.equal(deep)


def test_expanded_gradients(backend: str) -> None:
    x = features("dominant", 2, 6, 12).requires_grad_()
    first, second = dual_squeeze(x)
    (first.sum() + second.sum()).backward()
    ones = torch.ones(2, 6)
    found = values_and_gradient(dual_squeeze, x, (ones, ones), 5)
    assert x.grad is not None
    assert x.grad.equal(found[2])


def test_each_output_alone(backend: str) -> None:
    x = features("dominant", 2, 6, 12).requires_grad_()
    (only_first,) = torch.autograd.grad(dual_squeeze(x)[0].sum(), x)
    assert err(only_first, torch.full_like(x, 1 / 12)) < 1e-7
    (only_second,) = torch.autograd.grad(dual_squeeze(x)[1].sum(), x)
    (both,) = torch.autograd.grad(torch.stack(dual_squeeze(x)).sum(), x)
    assert err(only_first + only_second, both) < 5e-7


# Edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 129, 81), (1, 513, 1000), (1, 5, 65536)])
@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1000.1])
def test_no_variance(
    backend: str, shape: tuple[int, ...], value: float, dtype: torch.dtype
) -> None:
    x = torch.full(shape, value, dtype=dtype)
    # Channels that differ, positions that do not.
    x = x * torch.linspace(1, 2, shape[1], dtype=dtype)[:, None]
    g = upstream(x)
    first, second, grad = values_and_gradient(dual_squeeze, x, (g, 1e3 * g), 5)
    few_roundings = 16 * torch.finfo(dtype).eps  # as many as a constant sample may show
    assert err(first, x[..., 0]) <= few_roundings
    assert (second == 0).all()
    assert err(grad, g[..., None].expand(shape) / shape[2]) <= few_roundings


@pytest.mark.parametrize("scale", [1e-18, 1e-16, 1e-12, 1e12, 1e14, 1e16])
@pytest.mark.parametrize(("channels", "positions"), [(33, 40), (40, 33), (65, 300), (3, 2)])
def test_any_scale(backend: str, channels: int, positions: int, scale: float) -> None:
    x = features("dominant", 2, channels, positions) * scale
    g = upstream(x)
    found = values_and_gradient(dual_squeeze, x, (None, g), 5)
    exact = truth(x, (None, g), 5)
    what = f"{channels} x {positions} times {scale}"
    check_close(found, exact, tolerances(x, (None, g), 5, exact), what)


@pytest.mark.parametrize(("channels", "positions"), [(33, 40), (40, 33)])
def test_a_covariance_that_overflows_shows(backend: str, channels: int, positions: int) -> None:
    x = features("noise", 2, channels, positions)
    x[1] *= 1e25
    g = upstream(x)
    first, second, grad = values_and_gradient(dual_squeeze, x, (g, g), 5)
    assert first.isfinite().all()
    assert second[0].isfinite().all()
    assert grad[0].isfinite().all()
    assert not second[1].isfinite().any()
    assert not grad[1].isfinite().any()


def test_one_position(backend: str) -> None:
    x = features("noise", 3, 9, 1)
    g = upstream(x)
    first, second, grad = values_and_gradient(dual_squeeze, x, (g, g), 5)
    assert first.equal(x[..., 0])
    assert (second == 0).all()
    assert grad.equal(g[..., None])


@pytest.mark.parametrize("shape", [(0, 4, 6), (0, 4, 2, 3)])
def test_empty_batch(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    first, second = dual_squeeze(x)
    assert first.shape == second.shape == (0, 4)
    torch.autograd.backward((first, second), (first.detach(), second.detach()))
    assert x.grad is not None
    assert x.grad.shape == shape


@pytest.mark.parametrize(("channels", "positions"), [(12, 40), (40, 12)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_sample(backend: str, channels: int, positions: int, value: float) -> None:
    x = features("dominant", 3, channels, positions)
    g = upstream(x)
    clean = values_and_gradient(dual_squeeze, x, (g, g), 5)
    x[1, 2, 3] = value
    dirty = values_and_gradient(dual_squeeze, x, (g, g), 5)
    for before, after in zip(clean, dirty, strict=True):
        assert after[0].equal(before[0])
        assert after[2].equal(before[2])
    assert dirty[1][1].isnan().all()
    assert not dirty[2][1].isfinite().all()


def test_a_constant_sample_among_others(backend: str) -> None:
    x = features("dominant", 3, 12, 40)
    g = upstream(x)
    before = values_and_gradient(dual_squeeze, x, (None, g), 5)
    x[1] = 0.7
    after = values_and_gradient(dual_squeeze, x, (None, g), 5)
    for b, a in zip(before, after, strict=True):
        assert a[0].equal(b[0])
        assert a[2].equal(b[2])
    assert (after[1][1] == 0).all()
    assert (after[2][1] == 0).all()


@pytest.mark.parametrize(("channels", "positions"), [(96, 300), (300, 49)])
def test_runs_are_bit_equal(backend: str, channels: int, positions: int) -> None:
    x = features("dominant", 4, channels, positions)
    g = upstream(x)
    once = values_and_gradient(dual_squeeze, x, (g, g), 5)
    for _ in range(3):
        again = values_and_gradient(dual_squeeze, x.clone(), (g.clone(), g.clone()), 5)
        assert all(a.equal(b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast(backend: str, dtype: torch.dtype, given: torch.dtype) -> None:
    x = features("large", 2, 12, 40, dtype=given)
    g = upstream(x)
    plain = values_and_gradient(dual_squeeze, x, (g, g), 5)
    with torch.autocast("cpu", dtype=dtype):
        cast = values_and_gradient(dual_squeeze, x, (g, g), 5)
        direct = reference.dual_squeeze(x)
    assert all(a.dtype == given and a.equal(b) for a, b in zip(plain, cast, strict=True))
    assert all(y.dtype == given for y in direct)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    positions=st.integers(1, 60),
    iterations=st.integers(1, 10),
    kind=st.sampled_from(KINDS),
)
def test_any_shape(batch: int, channels: int, positions: int, iterations: int, kind: str) -> None:
    x = features(kind, batch, channels, positions)
    grads = (upstream(x), upstream(x, seed=3))
    found = values_and_gradient(dual_squeeze, x, grads, iterations)
    exact = truth(x, grads, iterations)
    what = f"{kind} {batch} x {channels} x {positions}, K = {iterations}"
    check_close(found, exact, tolerances(x, grads, iterations, exact), what)


# Wrong input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "iterations", "error", "message"),
    [
        (torch.ones(3, 4), 5, ValueError, r"x has shape \(3, 4\); expected \(B, D, H, W\)"),
        (torch.ones(1, 2, 3, 4, 5), 5, ValueError, r"shape \(1, 2, 3, 4, 5\)"),
        (torch.ones(2, 0, 4), 5, ValueError, r"shape \(2, 0, 4\).*at least one channel"),
        (torch.ones(2, 4, 0), 5, ValueError, r"shape \(2, 4, 0\).*at least one"),
        (torch.ones(2, 3, 4, dtype=torch.int64), 5, TypeError, "torch.int64; expected torch.flo"),
        (torch.ones(2, 3, 4, dtype=torch.complex64), 5, TypeError, "torch.complex64; expected"),
        ([[[1.0]]], 5, TypeError, "x is a list; expected a torch.Tensor"),
        (torch.ones(2, 3, 4), 0, ValueError, "iterations is 0; expected an int from 1 to 10"),
        (torch.ones(2, 3, 4), 11, ValueError, "iterations is 11; expected an int from 1 to 10"),
        (torch.ones(2, 3, 4), 5.0, TypeError, "iterations is 5.0, a float; expected an int"),
        (torch.ones(2, 3, 4), True, TypeError, "iterations is True, a bool; expected an int"),
        (torch.ones(2, 3, 4), None, TypeError, "iterations is None"),
    ],
)
def test_wrong_input(x, iterations, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.dual_squeeze: .*" + message):
        ccdn_ops.dual_squeeze(x, iterations)
