"""newton_schulz_sqrt on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

from functools import lru_cache, partial

import pytest
import torch
from harness import CHANNELS, KINDS, Case, Judge, err, features, normal, step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccdn_ops import newton_schulz_sqrt, reference


def judge(iterations: int) -> Judge:
    return Judge(partial(reference.newton_schulz_sqrt, iterations=iterations), ["BDD"], ["BDD"])


def covariances(
    kind: str, size: int, positions: int = 49, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(2, D, D), symmetric: the covariance of features, of rank N - 1 at most."""
    x = features(kind, 2, size, positions, seed=seed, dtype=torch.float64)
    found = reference.covariance_pool(x)
    return ((found + found.mT) / 2).to(dtype)


@lru_cache(maxsize=64)
def case(kind: str, size: int, iterations: int = 5, dtype: torch.dtype = torch.float32) -> Case:
    a = covariances(kind, size, dtype=dtype)
    return judge(iterations).case(f"{kind} {size} x {size}, K = {iterations}, {dtype}", [a])


def check(case: Case, iterations: int = 5) -> None:
    case.check(partial(newton_schulz_sqrt, iterations=iterations))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", CHANNELS[:-1])
def test_fp32_exact(backend: str, kind: str, size: int) -> None:
    check(case(kind, size))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 31, 32, 33, 64, 96, 513])
def test_fp32_exact_full(backend: str, kind: str, size: int) -> None:
    check(case(kind, size))


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("size", [20, 48])
def test_iterations(backend: str, size: int, iterations: int) -> None:
    check(case("dominant", size, iterations), iterations)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "rectified", "noise"])
@pytest.mark.parametrize("size", [1, 33, 65])
def test_other_dtypes(backend: str, kind: str, size: int, dtype: torch.dtype) -> None:
    check(case(kind, size, dtype=dtype))


@pytest.mark.parametrize("size", [7, 65])
def test_the_gradient_is_that_along_symmetric_directions(backend: str, size: int) -> None:
    a, g = (
        covariances("dominant", size, dtype=torch.float64),
        normal(2, size, size, seed=3).double(),
    )
    root, grad = step(newton_schulz_sqrt, [a], [g])
    _, symmetric = step(newton_schulz_sqrt, [a], [(g + g.mT) / 2])
    assert err(root, root.mT) <= 1e-14
    assert err(grad, grad.mT) <= 1e-13
    assert err(grad, symmetric) <= 1e-13
    # Along one such direction, by a central difference.
    direction = normal(2, size, size, seed=5).double()
    direction = (direction + direction.mT) * a.norm() * 1e-6
    difference = newton_schulz_sqrt(a + direction) - newton_schulz_sqrt(a - direction)
    assert err((g * difference).sum() / 2, (grad * direction).sum()) <= 1e-6


@pytest.mark.parametrize("size", [7, 65])
def test_a_counts_as_its_symmetric_part(backend: str, size: int) -> None:
    a = covariances("dominant", size, dtype=torch.float64)
    skew = normal(2, size, size, seed=6).double() * a.norm()
    g = normal(2, size, size, seed=3).double()
    plain, skewed = (step(newton_schulz_sqrt, [m], [g]) for m in (a, a + skew - skew.mT))
    assert all(err(y, x) <= 1e-12 for x, y in zip(plain, skewed, strict=True))


@pytest.mark.parametrize("size", [1, 24, 40])
def test_gradcheck_through_b_b_transposed(size: int) -> None:
    b = normal(1, size, 3, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: newton_schulz_sqrt(b @ b.mT), b, fast_mode=size > 1)


@pytest.mark.parametrize("size", [40, 65])
def test_what_is_saved_changes_nothing(backend: str, size: int) -> None:
    a, g = covariances("dominant", size), normal(2, size, size, seed=3)
    forward, backward = (
        torch.ops.ccdn.newton_schulz_sqrt,
        torch.ops.ccdn.newton_schulz_sqrt_backward,
    )
    kept, recomputed = (forward(a, 5, save) for save in (True, False))
    assert kept[2].numel() > recomputed[2].numel() == 0
    assert kept[0].equal(recomputed[0])
    grads = [
        backward(g, a, *saved, 5, save) for (_, *saved), save in ((kept, True), (recomputed, False))
    ]
    assert grads[0].equal(grads[1])


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("size", [3, 40])
def test_any_scale(backend: str, size: int, scale: float) -> None:
    a = covariances("dominant", size) * scale
    check(judge(5).case(f"{size} x {size} times {scale}", [a]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    positions=st.integers(1, 60),
    iterations=st.integers(1, 10),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_any_shape(size: int, positions: int, iterations: int, kind: str, seed: int) -> None:
    a = covariances(kind, size, positions, seed=seed)
    check(judge(iterations).case(f"{kind} {size}, K = {iterations}", [a]), iterations)
