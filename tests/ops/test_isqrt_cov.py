"""isqrt_cov on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

from functools import lru_cache, partial

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

from ccdn_ops import covariance_pool, isqrt_cov, newton_schulz_sqrt, reference


def judge(iterations: int = 5, axes: str = "BDN") -> Judge:
    return Judge(partial(reference.isqrt_cov, iterations=iterations), [axes], ["BDD"])


@lru_cache(maxsize=64)
def case(
    kind: str,
    channels: int,
    positions: int,
    iterations: int = 5,
    dtype: torch.dtype = torch.float32,
) -> Case:
    x = features(kind, 2, channels, positions, dtype=dtype)
    return judge(iterations).case(f"{kind} {tuple(x.shape)}, K = {iterations}, {dtype}", [x])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), FEW_SHAPES)
def test_fp32_exact(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(isqrt_cov)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), MANY_SHAPES)
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(isqrt_cov)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("channels", "positions"), [(3, 2), (4, 3), (33, 2)])
def test_small_maps_are_no_worse(channels: int, positions: int, seed: int) -> None:
    """With few positions the matrix is so small that its rounding does not average out."""
    for kind in KINDS:
        x = features(kind, 2, channels, positions, seed=seed)
        judge().case(f"{kind} {tuple(x.shape)}, seed {seed}", [x]).check(isqrt_cov)


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize(("channels", "positions"), [(48, 20), (20, 48), (48, 60)])
def test_iterations(backend: str, channels: int, positions: int, iterations: int) -> None:
    call = partial(isqrt_cov, iterations=iterations)
    case("dominant", channels, positions, iterations).check(call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 49), (33, 130)])
def test_other_dtypes(
    backend: str, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    case(kind, channels, positions, dtype=dtype).check(isqrt_cov)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 24, 3, 5), (2, 10, 8, 6), (2, 5, 1, 7), (2, 5, 7, 1)])
def test_memory_layouts(backend: str, layout: str, shape: tuple[int, ...]) -> None:
    x = features("dominant", *shape[:2], shape[2] * shape[3]).view(shape)
    check_layout(judge(axes="BDHW"), isqrt_cov, layout, [x])


@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (33, 130), (5, 3)])
def test_it_is_the_root_of_the_covariance(backend: str, channels: int, positions: int) -> None:
    x = features("dominant", 2, channels, positions, dtype=torch.float64)
    g = normal(2, channels, channels, seed=3, dtype=torch.float64)
    found = step(isqrt_cov, [x], [g])
    wanted = step(lambda x: newton_schulz_sqrt(covariance_pool(x)), [x], [g])
    assert all(err(y, z) <= 1e-12 for y, z in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (33, 130), (32, 8), (1, 5)])
def test_triu_is_the_upper_triangle(
    backend: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    x = features("dominant", 2, channels, positions, dtype=dtype)
    rows, columns = torch.triu_indices(channels, channels)
    g = normal(2, len(rows), seed=3, dtype=dtype)
    square = g.new_zeros(2, channels, channels)
    square[:, rows, columns] = g
    root, grad = step(isqrt_cov, [x], [square])
    triangle, of_triangle = step(partial(isqrt_cov, triu=True), [x], [g])
    assert triangle.equal(root[:, rows, columns])
    assert of_triangle.equal(grad)


@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (40, 130)])
def test_it_is_symmetric(backend: str, channels: int, positions: int) -> None:
    x, g = features("dominant", 2, channels, positions), normal(2, channels, channels, seed=3)
    found, grad = step(isqrt_cov, [x], [g])
    _, symmetric = step(isqrt_cov, [x], [(g + g.mT) / 2])
    if backend == "cpu":  # a matrix product of torch rounds the two halves differently
        assert found.equal(found.mT)
        assert grad.equal(symmetric)
    assert grad.double().sum(2).norm() <= 1e-5 * grad.double().norm()


@pytest.mark.parametrize(("channels", "positions"), [(65, 49), (40, 130)])
def test_what_is_saved_changes_nothing(backend: str, channels: int, positions: int) -> None:
    x, g = features("dominant", 2, channels, positions), normal(2, channels, channels, seed=3)
    kept, recomputed = (torch.ops.ccdn.isqrt_cov(x, 5, False, save) for save in (True, False))
    assert kept[2].numel() > recomputed[2].numel() == 0
    assert kept[0].equal(recomputed[0])
    grads = [
        torch.ops.ccdn.isqrt_cov_backward(g, x, *saved, 5, False, save)
        for (_, *saved), save in ((kept, True), (recomputed, False))
    ]
    assert grads[0].equal(grads[1])


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e12, 1e16])
@pytest.mark.parametrize(("channels", "positions"), [(33, 40), (40, 33), (3, 2)])
def test_any_scale(backend: str, channels: int, positions: int, scale: float) -> None:
    x = features("dominant", 2, channels, positions) * scale
    judge().case(f"{tuple(x.shape)} times {scale}", [x]).check(isqrt_cov)


@pytest.mark.parametrize(("channels", "positions"), [(33, 40), (40, 33)])
def test_a_covariance_that_overflows_shows(backend: str, channels: int, positions: int) -> None:
    x = features("noise", 2, channels, positions)
    x[1] *= 1e25
    found, grad = step(isqrt_cov, [x], [torch.ones(2, channels, channels)])
    assert found[0].isfinite().all()
    assert grad[0].isfinite().all()
    assert not found[1].isfinite().any()
    assert not grad[1].isfinite().any()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    channels=st.integers(1, 40),
    positions=st.integers(1, 60),
    iterations=st.integers(1, 10),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_any_shape(channels: int, positions: int, iterations: int, kind: str, seed: int) -> None:
    x = features(kind, 2, channels, positions, seed=seed)
    what = f"{kind} {tuple(x.shape)}, K = {iterations}, seed {seed}"
    judge(iterations).case(what, [x]).check(partial(isqrt_cov, iterations=iterations))
