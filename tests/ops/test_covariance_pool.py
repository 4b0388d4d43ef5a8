"""covariance_pool on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from harness import (
    FEW_SHAPES,
    KINDS,
    LAYOUTS,
    MANY_SHAPES,
    Case,
    Judge,
    check_layout,
    err,
    features,
    normal,
    step,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ccdn_ops import covariance_pool, reference

JUDGE = Judge(reference.covariance_pool, ["BDN"], ["BDD"])


@lru_cache(maxsize=64)
def case(kind: str, channels: int, positions: int, dtype: torch.dtype = torch.float32) -> Case:
    x = features(kind, 2, channels, positions, dtype=dtype)
    return JUDGE.case(f"{kind} {tuple(x.shape)} {dtype}", [x])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), FEW_SHAPES)
def test_fp32_exact(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(covariance_pool)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), MANY_SHAPES)
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(covariance_pool)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 49), (33, 130)])
def test_other_dtypes(
    backend: str, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    if kind == "large" and dtype == torch.float16:
        kind = "noise"  # whose squares float16 can hold
    case(kind, channels, positions, dtype).check(covariance_pool)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 24, 3, 5), (2, 10, 8, 6), (2, 5, 1, 7), (2, 5, 7, 1)])
def test_memory_layouts(backend: str, layout: str, shape: tuple[int, ...]) -> None:
    x = features("dominant", *shape[:2], shape[2] * shape[3]).view(shape)
    check_layout(Judge(reference.covariance_pool, ["BDHW"], ["BDD"]), covariance_pool, layout, [x])


def test_it_is_the_covariance_of_numpy(backend: str) -> None:
    x = features("dominant", 2, 7, 40, dtype=torch.float64)
    for sample, found in zip(x, covariance_pool(x), strict=True):
        assert err(found, torch.cov(sample, correction=0)) < 1e-14


@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (33, 130)])
def test_it_is_symmetric(backend: str, channels: int, positions: int) -> None:
    x, g = features("dominant", 2, channels, positions), normal(2, channels, channels, seed=3)
    found, grad = step(covariance_pool, [x], [g])
    _, symmetric = step(covariance_pool, [x], [(g + g.mT) / 2])
    if backend == "cpu":  # a matrix product of torch rounds the two halves differently
        assert found.equal(found.mT)
        assert grad.equal(symmetric)
    # The mean does not matter, so no gradient goes along it.
    assert grad.double().sum(2).norm() <= 1e-5 * grad.double().norm()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 70),
    positions=st.integers(1, 70),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_any_shape(batch: int, channels: int, positions: int, kind: str, seed: int) -> None:
    x = features(kind, batch, channels, positions, seed=seed)
    JUDGE.case(f"{kind} {tuple(x.shape)}", [x]).check(covariance_pool)
