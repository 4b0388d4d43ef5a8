"""What newton_schulz_sqrt and newton_schulz_roots share: their numbers on every backend.

test_newton_schulz_sqrt.py and test_newton_schulz_roots.py import the tests and say in the fixture
`root` which operator is meant; so do the tests of the CUDA kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from harness import CHANNELS, KINDS, Case, Judge, err, features, normal, step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccdn_ops import reference


@dataclass(frozen=True)
class Root:
    """An operator, and how its tests differ from those of the other.

    results    how many matrices (B, D, D) it returns
    norm       its option of that name, None if it has none
    scales     what a matrix may be multiplied by in float32
    rounding   the error in float64 where the rounding of the matrix is not its own
    regular    it divides by eigenvalues: where derivatives are compared, they must not be 0
    """

    function: Callable[..., Any]
    results: int
    norm: bool | None
    scales: tuple[float, ...]
    rounding: float
    regular: bool

    @property
    def options(self) -> dict[str, bool]:
        return {} if self.norm is None else {"norm": self.norm}

    def call(self, iterations: int = 5) -> Callable[..., Any]:
        return partial(self.function, iterations=iterations, **self.options)

    def judge(self, iterations: int = 5) -> Judge:
        literal = getattr(reference, self.function.__name__)
        literal = partial(literal, iterations=iterations, **self.options)
        return Judge(literal, ["BDD"], ["BDD"] * self.results)

    def check(self, what: str, a: Tensor, iterations: int = 5) -> None:
        what = f"{what}, K = {iterations}, norm {self.norm}"
        self.judge(iterations).case(what, [a]).check(self.call(iterations))

    def grads(self, size: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [normal(2, size, size, seed=3 + i).to(dtype) for i in range(self.results)]


def covariances(
    kind: str, size: int, positions: int = 49, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(2, D, D), symmetric: the covariance of features, of rank N - 1 at most."""
    x = features(kind, 2, size, positions, seed=seed, dtype=torch.float64)
    found = reference.covariance_pool(x)
    return ((found + found.mT) / 2).to(dtype)


@lru_cache(maxsize=64)
def case(
    root: Root, kind: str, size: int, iterations: int = 5, dtype: torch.dtype = torch.float32
) -> Case:
    """Computed once for all backends."""
    what = f"{kind} {size} x {size}, K = {iterations}, norm {root.norm}, {dtype}"
    return root.judge(iterations).case(what, [covariances(kind, size, dtype=dtype)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", CHANNELS[:-1])
def test_fp32_exact(backend: str, root: Root, kind: str, size: int) -> None:
    case(root, kind, size).check(root.call())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 31, 32, 33, 64, 96, 513])
def test_fp32_exact_full(backend: str, root: Root, kind: str, size: int) -> None:
    case(root, kind, size).check(root.call())


# In place of these two for the CUDA kernels, which one core emulates.
@pytest.mark.parametrize("kind", ["dominant", "rank_deficient"])
@pytest.mark.parametrize("size", [1, 3, 66])
def test_fp32_exact_emulated(backend: str, root: Root, kind: str, size: int) -> None:
    case(root, kind, size).check(root.call())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [65, 129, 200])
def test_fp32_exact_emulated_full(backend: str, root: Root, kind: str, size: int) -> None:
    case(root, kind, size).check(root.call())


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("size", [20, 48])
def test_iterations(backend: str, root: Root, size: int, iterations: int) -> None:
    case(root, "dominant", size, iterations).check(root.call(iterations))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "rectified", "noise"])
@pytest.mark.parametrize("size", [1, 33, 65])
def test_other_dtypes(backend: str, root: Root, kind: str, size: int, dtype: torch.dtype) -> None:
    case(root, kind, size, dtype=dtype).check(root.call())


@pytest.mark.parametrize("size", [7, 65])
def test_the_gradient_is_that_along_symmetric_directions(
    backend: str, root: Root, size: int
) -> None:
    kind, positions = ("noise", 200) if root.regular else ("dominant", 49)
    a, call = covariances(kind, size, positions, dtype=torch.float64), root.call()
    g = root.grads(size)
    *found, grad = step(call, [a], g)
    *_, symmetric = step(call, [a], [(x + x.mT) / 2 for x in g])
    assert all(err(y, y.mT) <= 1e-14 for y in found)
    assert err(grad, grad.mT) <= 1e-13
    assert err(grad, symmetric) <= 1e-13
    # Along one such direction, by a central difference.
    direction = normal(2, size, size, seed=5).double()
    direction = (direction + direction.mT) * a.norm() * 1e-6
    ups, downs = (step(call, [a + sign * direction], g)[:-1] for sign in (1, -1))
    pairs = zip(ups, downs, g, strict=True)
    difference = sum((x * (up - down)).sum() / 2 for up, down, x in pairs)
    assert err(torch.as_tensor(difference), (grad * direction).sum()) <= 1e-6


@pytest.mark.parametrize("size", [7, 65])
def test_a_counts_as_its_symmetric_part(backend: str, root: Root, size: int) -> None:
    a = covariances("dominant", size, dtype=torch.float64)
    skew = normal(2, size, size, seed=6).double() * a.norm()
    both = (step(root.call(), [m], root.grads(size)) for m in (a, a + skew - skew.mT))
    assert all(err(y, x) <= root.rounding for x, y in zip(*both, strict=True))


@pytest.mark.parametrize("size", [1, 24, 40])
def test_gradcheck_through_b_b_transposed(root: Root, size: int) -> None:
    width = size + 3 if root.regular else 3
    b = normal(1, size, width, seed=1, dtype=torch.float64).requires_grad_()
    call = root.call()
    assert torch.autograd.gradcheck(lambda b: call(b @ b.mT), b, fast_mode=size > 1)


@pytest.mark.parametrize(("size", "iterations"), [(40, 5), (65, 5), (65, 2), (65, 1)])
def test_what_is_saved_changes_nothing(
    backend: str, root: Root, size: int, iterations: int
) -> None:
    a, g = covariances("dominant", size), root.grads(size, torch.float32)
    name, options = root.function.__name__, [iterations, *root.options.values()]
    forward, backward = (getattr(torch.ops.ccdn, n) for n in (name, f"{name}_backward"))
    kept, recomputed = (forward(a, *options, save) for save in (True, False))
    assert kept[-1].numel() > recomputed[-1].numel() == 0
    assert all(x.equal(y) for x, y in zip(kept[:-1], recomputed[:-1], strict=True))
    grads = [
        backward(*g, a, *found[root.results :], *options, save)
        for found, save in ((kept, True), (recomputed, False))
    ]
    assert grads[0].equal(grads[1])


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("size", [3, 40])
def test_any_scale(backend: str, root: Root, size: int, at: int) -> None:
    scale = root.scales[at]
    root.check(f"{size} x {size} times {scale}", covariances("dominant", size) * scale)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    positions=st.integers(1, 60),
    iterations=st.integers(1, 10),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_any_shape(
    root: Root, size: int, positions: int, iterations: int, kind: str, seed: int
) -> None:
    a = covariances(kind, size, positions, seed=seed)
    root.check(f"{kind} {size}", a, iterations)
