"""The numbers that the kernels are given, against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from ccdn_ops.chebyshev import (
    ROOT_TERMS,
    TERMS,
    chebyshev_coefficients,
    newton_schulz_polynomial,
)
from ccdn_ops.plans import dual_squeeze_plan

ITERATIONS = range(1, 11)
PRECISIONS = ("float32", "float64")
DEVICES = ("cpu", "cuda")  # on the CPU the side of the channels has the series of t q
# [0, 1], dense at both ends and denser near 0, where q_K is steepest.
T = np.unique(np.concatenate([np.sin(np.linspace(0, np.pi / 2, 2001)) ** 2, np.geomspace(1e-9, 1)]))


def coupled_iteration(t: np.ndarray, iterations: int) -> np.ndarray:
    """Y_K of the paper's iteration for a 1 x 1 matrix."""
    y, z = t, np.ones_like(t)
    for _ in range(iterations):
        step = (3 - z * y) / 2
        y, z = y * step, step * z
    return y


def slope(iterations: int, t: np.ndarray) -> np.ndarray:
    """dq_K/dt by the chain rule through its recurrence."""
    q, dq = np.ones_like(t), np.zeros_like(t)
    for _ in range(iterations):
        q, dq = q * (3 - t * q * q) / 2, (3 * dq - q**3 - 3 * t * q * q * dq) / 2
    return dq


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_the_polynomial_is_the_iteration(iterations: int) -> None:
    q = newton_schulz_polynomial(iterations, T)
    np.testing.assert_allclose(T * q, coupled_iteration(T, iterations), rtol=1e-13, atol=1e-15)


def divided_differences(iterations: int, t: np.ndarray, root: bool) -> np.ndarray:
    """(f(t_i) - f(t_j)) / (t_i - t_j) of q, or of t q.

    By the product rule [f g] = f(t_i) [g] + [f] g(t_j).
    """
    q, difference = np.ones_like(t), np.zeros((len(t), len(t)))
    for _ in range(iterations):
        square = (q[:, None] + q[None, :]) * difference
        product = t[:, None] * square + (q * q)[None, :]  # of t q^2
        product = q[:, None] * product + difference * (t * q * q)[None, :]  # of t q^3
        difference = (3 * difference - product) / 2
        q = q * (3 - t * q * q) / 2
    return t[:, None] * difference + q[None, :] if root else difference


def error(iterations: int, terms: int, precision: str, root: bool) -> float:
    c = chebyshev_coefficients(iterations, precision, root)[:terms]
    q = newton_schulz_polynomial(iterations, T)
    found = chebyshev.chebval(2 * T - 1, c)
    return np.abs(T * q - found).max() if root else np.abs(T * (q - found)).max()


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("iterations", ITERATIONS)
def test_terms_for_float32_are_enough_and_not_one_too_many(iterations: int, root: bool) -> None:
    terms = chebyshev_coefficients(iterations, "float32", root).size
    assert error(iterations, terms, "float32", root) <= 2.5e-9
    assert error(iterations, terms - 1, "float32", root) > 2.5e-9


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("iterations", ITERATIONS)
def test_terms_for_float64_leave_rounding_only(iterations: int, root: bool) -> None:
    terms = chebyshev_coefficients(iterations, "float64", root).size
    # q itself is rounded, and is as large as 1.5^K; the last K is where that passes 7e-15.
    bound = 7e-15 if iterations < 10 else 2e-14
    assert error(iterations, terms, "float64", root) <= bound


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("iterations", ITERATIONS)
def test_second_row_is_the_radial_derivative(iterations: int, precision: str, device: str) -> None:
    plan = dual_squeeze_plan(8, 9, iterations, precision, device)
    wanted = newton_schulz_polynomial(iterations, T) + 2 * T * slope(iterations, T)
    found = chebyshev.chebval(2 * T - 1, plan.table[1])
    difference = found - T * wanted if plan.root else T * (found - wanted)
    # A derivative's series falls later than the value's, by a factor of up to the terms.
    bound = 2.5e-9 if precision == "float32" else 7e-15
    assert np.abs(difference).max() <= 2 * plan.terms * bound


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("iterations", ITERATIONS)
def test_factors_give_the_divided_differences(iterations: int, precision: str, device: str) -> None:
    """dL/dM in M's eigenvectors is (f(x) - f(y)) / (x - y), and f' on the diagonal."""
    plan = dual_squeeze_plan(8, 9, iterations, precision, device)
    left, right = plan.table[2 : 2 + plan.rank], plan.table[2 + plan.rank :]
    assert left.shape == right.shape == (plan.rank, plan.terms)
    x = np.cos(np.linspace(0, np.pi, 101))
    basis = chebyshev.chebvander(x, plan.terms - 1).T
    found = (left @ basis).T @ (right @ basis)
    wanted = divided_differences(iterations, (1 + x) / 2, plan.root) / 2
    if precision == "float32":
        relative = 1e-7 if plan.root else 1e-9
    else:  # Markov's inequality: coefficients right to a rounding, a derivative to terms^2 of them
        relative = max(4e-14, 0.1 * plan.terms**2 * 2**-52 if plan.root else 0)
    assert np.abs(found - wanted).max() <= relative * np.abs(wanted).max()


@pytest.mark.parametrize("device", DEVICES)
def test_factors_are_thin(device: str) -> None:
    ranks = [dual_squeeze_plan(8, 9, k, "float32", device).rank for k in ITERATIONS]
    assert ranks == sorted(ranks)
    assert ranks[4] == 8
    assert ranks[-1] <= 12


def test_side_is_the_smaller_one() -> None:
    assert dual_squeeze_plan(64, 256, 5, "float32", "cpu").side == "channels"
    assert dual_squeeze_plan(64, 64, 5, "float32", "cpu").side == "channels"
    assert dual_squeeze_plan(256, 64, 5, "float32", "cpu").side == "positions"


def test_16_bit_inputs_use_the_float32_series() -> None:
    for name in ("bfloat16", "float16"):
        assert dual_squeeze_plan(8, 9, 5, name, "cuda").terms == TERMS["float32"][4]
        assert dual_squeeze_plan(8, 9, 5, name, "cpu").terms == ROOT_TERMS["float32"][4]
    assert dual_squeeze_plan(9, 8, 5, "float64", "cpu").terms == TERMS["float64"][4]


def test_plans_are_cached_and_their_table_cannot_change() -> None:
    plan = dual_squeeze_plan(64, 256, 5, "float32", "cpu")
    assert dual_squeeze_plan(64, 256, 5, "float32", "cpu") is plan
    assert plan.table.flags.c_contiguous
    assert plan.coefficients.ctypes.data == plan.table.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        plan.table[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        plan.coefficients[0] = 1


@pytest.mark.parametrize("iterations", [0, 11, -1])
def test_iterations_out_of_range(iterations: int) -> None:
    with pytest.raises(ValueError, match=f"iterations is {iterations}; expected 1 to 10"):
        dual_squeeze_plan(8, 9, iterations, "float32", "cpu")
