"""newton_schulz_roots on every backend that serves CPU tensors: the numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import err, normal, step
from matrix_roots import (  # noqa: F401
    Root,
    covariances,
    test_a_counts_as_its_symmetric_part,
    test_any_scale,
    test_any_shape,
    test_fp32_exact,
    test_fp32_exact_full,
    test_gradcheck_through_b_b_transposed,
    test_iterations,
    test_other_dtypes,
    test_the_gradient_is_that_along_symmetric_directions,
    test_what_is_saved_changes_nothing,
)
from torch import Tensor

from ccdn_ops import newton_schulz_roots, newton_schulz_sqrt
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


def root_by(norm: bool) -> Root:
    """It divides by the norm, whose squares overflow in float32 where the trace does not, or by the
    trace. The inverse root of a singular matrix magnifies the rounding of the matrix."""
    return Root(
        newton_schulz_roots,
        results=2,
        norm=norm,
        scales=(1e-20, 1e-10, 1e10, 1e15 if norm else 1e20),
        rounding=1e-9,
        regular=True,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["trace", "norm"])
def root(request: pytest.FixtureRequest) -> Root:
    return root_by(request.param)


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("alone", [0, 1])
def test_a_gradient_of_one_of_the_two(backend: str, root: Root, alone: int, size: int) -> None:
    a, grads = covariances("dominant", size), [None, None]
    grads[alone] = normal(2, size, size, seed=3)
    root.judge().case(f"{size} x {size}, output {alone} alone", [a], grads).check(root.call())


def by_eigenvalues(a: Tensor, iterations: int, by: Root) -> tuple[Tensor, Tensor]:
    """Both roots of a, by the polynomials of its eigenvalues."""
    values, vectors = torch.linalg.eigh(a)
    divisor = values.norm(dim=1) if by.norm else values.sum(1)
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


@pytest.mark.parametrize("iterations", range(1, 11))
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_repeated_and_zero_eigenvalues(
    backend: str, root: Root, spectrum: str, iterations: int
) -> None:
    a = SPECTRA[spectrum]()
    both = zip(root.call(iterations)(a), by_eigenvalues(a, iterations, root), strict=True)
    assert all(err(found, wanted) <= 1e-9 for found, wanted in both)
    root.check(spectrum, a.float(), iterations)


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_matrix_of_zeros(backend: str, root: Root, size: int) -> None:
    a = covariances("noise", size, 200)
    a[0] = 0
    for found in step(root.call(), [a], root.grads(size, a.dtype)):
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
