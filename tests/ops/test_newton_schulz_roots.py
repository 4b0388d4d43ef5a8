"""newton_schulz_roots on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import pytest
import torch
from harness import CHANNELS, KINDS, Case, Judge, err, normal, step
from hypothesis import given, settings
from hypothesis import strategies as st
from test_newton_schulz_sqrt import covariances
from torch import Tensor

from ccdn_ops import newton_schulz_roots, newton_schulz_sqrt, reference
from ccdn_ops.chebyshev import newton_schulz_polynomial

# Of K = 5 steps of four 6 x 6 matrices in double: 10 symmetric products for Z and one for Y. A
# derivative takes two of each and four for the ends of Y; the iteration comes first.
PRODUCT = 4 * 6 * 6 * 7
COUNT = (
    newton_schulz_roots,
    [torch.eye(6).repeat(4, 1, 1)],
    (11 * PRODUCT, (2 * 10 + 2 * 2 + 10) * PRODUCT),
    (13 * 4 * 2 * 6**3, 3 * 13 * 4 * 2 * 6**3),
)


def judge(iterations: int = 5, norm: bool = False) -> Judge:
    literal = partial(reference.newton_schulz_roots, iterations=iterations, norm=norm)
    return Judge(literal, ["BDD"], ["BDD", "BDD"])


@lru_cache(maxsize=64)
def case(
    kind: str,
    size: int,
    iterations: int = 5,
    norm: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    a = covariances(kind, size, dtype=dtype)
    what = f"{kind} {size} x {size}, K = {iterations}, norm {norm}, {dtype}"
    return judge(iterations, norm).case(what, [a])


def check(case: Case, iterations: int = 5, norm: bool = False) -> None:
    case.check(partial(newton_schulz_roots, iterations=iterations, norm=norm))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", CHANNELS[:-1])
def test_fp32_exact(backend: str, kind: str, size: int) -> None:
    check(case(kind, size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [3, 40])
def test_divided_by_the_norm(backend: str, kind: str, size: int) -> None:
    check(case(kind, size, norm=True), norm=True)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 31, 32, 33, 64, 96, 513])
def test_fp32_exact_full(backend: str, kind: str, size: int, norm: bool) -> None:
    check(case(kind, size, norm=norm), norm=norm)


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("size", [20, 48])
@pytest.mark.parametrize("norm", [False, True])
def test_iterations(backend: str, norm: bool, size: int, iterations: int) -> None:
    check(case("dominant", size, iterations, norm), iterations, norm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "rectified", "noise"])
@pytest.mark.parametrize("size", [1, 33, 65])
def test_other_dtypes(backend: str, kind: str, size: int, dtype: torch.dtype) -> None:
    check(case(kind, size, dtype=dtype))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("alone", [0, 1])
def test_a_gradient_of_one_of_the_two(backend: str, alone: int, size: int, norm: bool) -> None:
    a, grads = covariances("dominant", size), [None, None]
    grads[alone] = normal(2, size, size, seed=3)
    judged = judge(norm=norm).case(f"{size} x {size}, output {alone} alone", [a], grads)
    check(judged, norm=norm)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [7, 65])
def test_the_gradient_is_that_along_symmetric_directions(
    backend: str, size: int, norm: bool
) -> None:
    call = partial(newton_schulz_roots, norm=norm)
    a = covariances("noise", size, 200, dtype=torch.float64)
    g = [normal(2, size, size, seed=3 + i).double() for i in (0, 1)]
    root, inverse, grad = step(call, [a], g)
    *_, symmetric = step(call, [a], [(x + x.mT) / 2 for x in g])
    assert err(root, root.mT) <= 1e-14
    assert err(inverse, inverse.mT) <= 1e-14
    assert err(grad, grad.mT) <= 1e-13
    assert err(grad, symmetric) <= 1e-13
    # Along one such direction, by a central difference.
    direction = normal(2, size, size, seed=5).double()
    direction = (direction + direction.mT) * a.norm() * 1e-6
    pairs = zip(call(a + direction), call(a - direction), g, strict=True)
    difference = sum((x * (up - down)).sum() / 2 for up, down, x in pairs)
    assert err(torch.as_tensor(difference), (grad * direction).sum()) <= 1e-6


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [7, 65])
def test_a_counts_as_its_symmetric_part(backend: str, size: int, norm: bool) -> None:
    call = partial(newton_schulz_roots, norm=norm)
    a = covariances("dominant", size, dtype=torch.float64)
    skew = normal(2, size, size, seed=6).double() * a.norm()
    g = [normal(2, size, size, seed=3 + i).double() for i in (0, 1)]
    plain, skewed = (step(call, [m], g) for m in (a, a + skew - skew.mT))
    # The inverse root of a singular matrix magnifies the rounding of a + skew.
    assert all(err(y, x) <= 1e-9 for x, y in zip(plain, skewed, strict=True))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [1, 24, 40])
def test_gradcheck_through_b_b_transposed(size: int, norm: bool) -> None:
    b = normal(1, size, size + 3, seed=1, dtype=torch.float64).requires_grad_()
    call = partial(newton_schulz_roots, norm=norm)
    assert torch.autograd.gradcheck(lambda b: call(b @ b.mT), b, fast_mode=size > 1)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("size", "iterations"), [(40, 5), (65, 2), (65, 1)])
def test_what_is_saved_changes_nothing(
    backend: str, size: int, iterations: int, norm: bool
) -> None:
    a, g = covariances("dominant", size), [normal(2, size, size, seed=3 + i) for i in (0, 1)]
    forward, backward = (
        torch.ops.ccdn.newton_schulz_roots,
        torch.ops.ccdn.newton_schulz_roots_backward,
    )
    kept, recomputed = (forward(a, iterations, norm, save) for save in (True, False))
    assert kept[3].numel() > recomputed[3].numel() == 0
    assert all(x.equal(y) for x, y in zip(kept[:3], recomputed[:3], strict=True))
    grads = [
        backward(*g, a, *saved, iterations, norm, save)
        for (_, _, *saved), save in ((kept, True), (recomputed, False))
    ]
    assert grads[0].equal(grads[1])


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e20])
@pytest.mark.parametrize("size", [3, 40])
def test_any_scale(backend: str, size: int, scale: float) -> None:
    check(judge().case(f"{size} x {size} times {scale}", [covariances("dominant", size) * scale]))


def by_eigenvalues(a: Tensor, iterations: int, norm: bool) -> tuple[Tensor, Tensor]:
    """Both roots of a, by the polynomials of its eigenvalues."""
    values, vectors = torch.linalg.eigh(a)
    divisor = values.norm(dim=1) if norm else values.sum(1)
    t = values / divisor[:, None]
    q = torch.from_numpy(newton_schulz_polynomial(iterations, t.numpy()))
    root, inverse = t * q * divisor.sqrt()[:, None], q / divisor.sqrt()[:, None]
    return vectors * root[:, None] @ vectors.mT, vectors * inverse[:, None] @ vectors.mT


def rotated(*eigenvalues: float) -> Tensor:
    """A matrix of these eigenvalues, (1, D, D), float64."""
    basis = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=4).double())[0]
    return (basis * torch.tensor(eigenvalues, dtype=torch.float64) @ basis.mT)[None]


SPECTRA: dict[str, Callable[[], Tensor]] = {
    "identity": lambda: torch.eye(40, dtype=torch.float64)[None] * 3,
    "one eigenvalue": lambda: rotated(2.0, *[0.0] * 39),
    "repeated": lambda: rotated(*[5.0] * 20, *[1e-3] * 20),
    "repeated and zero": lambda: rotated(*[1.0] * 6, *[0.0] * 6),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_repeated_and_zero_eigenvalues(
    backend: str, spectrum: str, iterations: int, norm: bool
) -> None:
    a = SPECTRA[spectrum]()
    call = partial(newton_schulz_roots, iterations=iterations, norm=norm)
    for found, wanted in zip(call(a), by_eigenvalues(a, iterations, norm), strict=True):
        assert err(found, wanted) <= 1e-9
    judge(iterations, norm).case(f"{spectrum}, K = {iterations}", [a.float()]).check(call)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_matrix_of_zeros(backend: str, size: int, norm: bool) -> None:
    a = covariances("noise", size, 200)
    a[0] = 0
    grads = [normal(2, size, size, seed=3 + i) for i in (0, 1)]
    both = step(partial(newton_schulz_roots, norm=norm), [a], grads)
    for found in both:
        assert (found[0] == 0).all()
        assert found.isfinite().all()
        assert found[1].norm() > 0


@pytest.mark.parametrize("size", [3, 40])
def test_what_overflows_shows(backend: str, size: int) -> None:
    a = covariances("noise", size, 200)
    a[1] *= 3e38 / a[1].amax()  # finite, but not its trace
    assert a.isfinite().all()
    both = step(newton_schulz_roots, [a], [torch.ones_like(a)] * 2)
    for found in both:
        assert found[0].isfinite().all()
        assert not found[1].isfinite().any()


def test_they_converge_to_the_roots(backend: str) -> None:
    a = covariances("noise", 12, 200, dtype=torch.float64)
    for norm in (False, True):
        root, inverse = newton_schulz_roots(a, 10, norm)
        eye = torch.eye(12, dtype=torch.float64)
        assert err(root @ root, a) <= 1e-10
        assert err(inverse @ a @ inverse, eye.expand_as(a)) <= 1e-10


def test_newton_schulz_sqrt_has_both(backend: str) -> None:
    a = covariances("dominant", 40, dtype=torch.float64).requires_grad_()
    root, inverse = newton_schulz_sqrt(a, 7, inverse=True)
    wanted = newton_schulz_roots(a, 7)
    assert root.equal(wanted[0])
    assert inverse.equal(wanted[1])
    assert err(root, newton_schulz_sqrt(a, 7)) <= 1e-12


@pytest.mark.parametrize("function", [newton_schulz_roots, newton_schulz_sqrt])
def test_a_switch_is_a_bool(function: Callable[..., object]) -> None:
    name = "norm" if function is newton_schulz_roots else "inverse"
    with pytest.raises(TypeError, match=f"{function.__name__}: {name} is 1; expected a bool"):
        function(torch.eye(2)[None], 5, 1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 40),
    positions=st.integers(1, 60),
    iterations=st.integers(1, 10),
    kind=st.sampled_from(KINDS),
    norm=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape(
    size: int, positions: int, iterations: int, kind: str, norm: bool, seed: int
) -> None:
    a = covariances(kind, size, positions, seed=seed)
    what = f"{kind} {size}, K = {iterations}, norm {norm}"
    check(judge(iterations, norm).case(what, [a]), iterations, norm)
