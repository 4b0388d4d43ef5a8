"""Swapping the functions that whiten: IterNorm's and network deconvolution's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from harness import err, normal
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from whiteners import (
    Deconvolution,
    IterativeNormalization,
    IterNorm,
    isqrt_newton_schulz_autograd,
)

from ccdn_ops import newton_schulz_roots, swap_functions, swap_second_order, unswap
from ccdn_ops.swap import functions, whitening
from ccdn_ops.swap.blocks import Unfit
from ccdn_ops.swap.symmetric import is_symmetric


@pytest.fixture
def calls() -> Iterator[mock.Mock]:
    """The operator's calls by the replacements."""
    with mock.patch.object(whitening, "newton_schulz_roots", wraps=newton_schulz_roots) as watched:
        yield watched


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, the gradients of x and of the weights, and the buffers afterwards."""
    model = copy.deepcopy(model)
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    grads = torch.autograd.grad(out.cos().sum(), [leaf, *model.parameters()])
    return [out.detach(), *grads, *model.buffers()]


def check_equal(swapped: nn.Module, plain: nn.Module, x: Tensor) -> None:
    for found, wanted in zip(step(swapped, x), step(plain, x), strict=True):
        assert err(found, wanted) <= 1e-4


def maps(*shape: int) -> Tensor:
    mixing = torch.eye(shape[1]) + normal(shape[1], shape[1], seed=2).abs() / 2
    return torch.einsum("cd,bdhw->bchw", mixing, normal(*shape, seed=1)) + 1


@pytest.mark.parametrize("groups", [1, 2])
def test_iternorm(groups: int, calls: mock.Mock) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), IterNorm(8, groups))
    swapped = copy.deepcopy(plain)
    report = swap_functions(swapped)
    assert [done.names for done in report.replaced] == [("1",)]
    assert "IterNorm's whitening in training, 1, 2, 3, 4, 5" in str(report)
    assert 8 not in report.replaced[0].layout.iterations
    calls.reset_mock()
    check_equal(swapped, plain, maps(4, 3, 9, 8))
    assert calls.call_count == 1
    # Its own code serves evaluation, autocast and what is not one of the verified calls.
    x = maps(4, 3, 9, 8)
    assert swapped.eval()(x).equal(plain.eval()(x))
    swapped.train(), plain.train()
    with torch.autocast("cpu"):
        assert swapped(x).equal(plain(x))
    for model in (swapped, plain):
        model[1].T = 8
    assert swapped(x).equal(plain(x))
    assert calls.call_count == 1
    assert unswap(swapped) == ["1"]
    assert type(swapped[1]) is IterNorm


@pytest.mark.parametrize("groups", [1, 2])
def test_network_deconvolution(groups: int, calls: mock.Mock) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), Deconvolution(8, 6, groups))
    swapped = copy.deepcopy(plain)
    report = swap_second_order(swapped)
    layouts = [done.layout for done in report.functions]
    assert [(found.rank, found.norm) for found in layouts] == [(2, True), (3, True)]
    assert all(found.iterations == tuple(range(1, 11)) for found in layouts)
    calls.reset_mock()
    check_equal(swapped, plain, maps(4, 3, 9, 8))
    assert calls.call_count == 1
    check_equal(copy.deepcopy(swapped), plain, maps(2, 3, 5, 5))
    assert calls.call_count == 2
    with torch.no_grad():  # then only the matrix' own symmetry matters
        swapped(maps(4, 3, 9, 8))
    assert calls.call_count == 3


# How a matrix may be made of x (D, N), and whether its symmetric gradient is enough.
MADE: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "x x^T": (lambda x: x @ x.t(), True),
    "x x^T over n, and the identity": (lambda x: x @ x.t() / 50 + 0.1 * torch.eye(len(x)), True),
    "half of twice": (lambda x: (x @ x.t() + x @ x.t()) * 0.5, True),
    "addmm": (lambda x: torch.addmm(torch.eye(len(x)), x, x.t(), beta=0.1), True),
    "addmm of a square": (lambda x: torch.addmm(x @ x.t(), x, x.t()), False),
    "of x and a copy": (lambda x: x @ x.clone().t(), False),
    "x y^T": (lambda x: x @ (x + 1e-6).t(), False),
    "over its trace": (lambda x: x @ x.t() / (x @ x.t()).trace(), False),
    "changed": (lambda x: (x @ x.t()).exp(), False),
    "of one triangle": (lambda x: (x @ x.t()).tril() + (x @ x.t()).tril(-1).t(), False),
    "not symmetric": (lambda x: x @ x.t() + torch.ones(len(x), len(x)).triu(), False),
}


@pytest.mark.parametrize("how", MADE)
def test_the_matrices_that_the_operator_gets(how: str) -> None:
    make, served = MADE[how]
    x = normal(6, 50, seed=1).requires_grad_()
    assert is_symmetric(make(x)) is served


def test_a_matrix_that_somebody_looks_at() -> None:
    x = normal(6, 50, seed=1).requires_grad_()
    leaf = (x @ x.t()).detach().requires_grad_()
    assert not is_symmetric(leaf)
    assert is_symmetric(leaf.detach())
    retained, hooked = x @ x.t(), x @ x.t()
    retained.retain_grad()
    hooked.register_hook(lambda grad: grad)
    assert not is_symmetric(retained)
    assert not is_symmetric(hooked)
    skew = leaf.detach().clone()
    skew[0, 1] += 1e-3
    assert not is_symmetric(skew)
    with torch.inference_mode():
        assert not is_symmetric(x @ x.t())


def test_tensors_without_numbers_go_to_the_function() -> None:
    made = functions.recognise(isqrt_newton_schulz_autograd)
    assert made is not None
    assert made(torch.empty(5, 5, device="meta"), 5).shape == (5, 5)
    with FakeTensorMode():
        assert made(torch.empty(5, 5), 5).shape == (5, 5)


def test_a_gradient_that_is_not_symmetric_stays(calls: mock.Mock) -> None:
    class OfAParameter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.eye(6) + 0.1)

        def forward(self, x: Tensor) -> Tensor:
            return x @ isqrt_newton_schulz_autograd(self.matrix, 5)

    plain, x = OfAParameter(), normal(3, 6, seed=1)
    swapped = copy.deepcopy(plain)
    assert len(swap_functions(swapped).replaced) == 1
    calls.reset_mock()
    for found, wanted in zip(step(swapped, x), step(plain, x), strict=True):
        assert found.equal(wanted)
    assert not calls.called


# Functions that are nearly one of them ------------------------------------------------------------


def by_the_trace(a: Tensor, steps: int = 5) -> Tensor:
    a, trace = a / a.trace(), a.trace()
    p = torch.eye(len(a), dtype=a.dtype)
    for _ in range(steps):
        p = 1.5 * p - 0.5 * p @ p @ p @ a
    return p / trace.sqrt()


def fixed(a: Tensor) -> Tensor:
    return isqrt_newton_schulz_autograd(a, 4)


def of_small_ones(a: Tensor, steps: int) -> Tensor:
    found = isqrt_newton_schulz_autograd(a, steps)
    return found if len(a) < 33 else 2 * found


def doubled(a: Tensor, steps: int) -> Tensor:
    return 2 * isqrt_newton_schulz_autograd(a, steps)


class OtherStatistics(IterativeNormalization):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        out = IterativeNormalization.forward(ctx, *args)
        args[2].mul_(2)
        return out


class OtherGradient(IterativeNormalization):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, *rest = IterativeNormalization.backward(ctx, *grads)
        return None if grad is None else grad + 1e-2, *rest


def test_other_inverse_roots() -> None:
    found = functions.recognise(by_the_trace)
    assert found is not None
    assert (found.layout.norm, found.layout.default, found.layout.rank) == (False, 5, 2)
    found = functions.recognise(fixed)
    assert found is not None
    assert (found.layout.norm, found.layout.iterations) == (True, (4,))
    for other in (doubled, OtherStatistics.apply, OtherGradient.apply, torch.linalg.inv):
        assert functions.recognise(other) is None
    with pytest.raises(Unfit, match="something else than the inverse root of 33 x 33"):
        functions.recognise(of_small_ones)
