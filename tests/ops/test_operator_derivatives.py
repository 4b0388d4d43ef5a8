"""Derivatives of every operator: by difference, of higher order, in forward mode, by transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import err
from operator_rows import OPERATORS, Operator, outputs_of
from torch import Tensor
from torch.autograd import forward_ad

import ccdn_ops

every = pytest.mark.parametrize("operator", OPERATORS, ids=str)


@every
@pytest.mark.parametrize("sizes", [{"D": 5, "H": 3, "W": 4}, {"D": 8, "H": 2, "W": 2}], ids=str)
def test_gradcheck(operator: Operator, sizes: dict[str, int]) -> None:
    tensors = operator.tensors(torch.float64, B=2, **sizes)
    assert torch.autograd.gradcheck(operator.call, tensors)


@every
@pytest.mark.parametrize("sizes", [{"D": 3, "H": 2, "W": 3}, {"D": 4, "H": 1, "W": 3}], ids=str)
def test_gradgradcheck_and_forward_mode(operator: Operator, sizes: dict[str, int]) -> None:
    tensors = operator.tensors(torch.float64, B=2, **sizes)
    assert torch.autograd.gradgradcheck(operator.call, tensors, fast_mode=True)
    assert torch.autograd.gradcheck(
        operator.call, tensors, check_forward_ad=True, check_backward_ad=False, fast_mode=True
    )


def squares(call: Callable[..., Any]) -> Callable[..., Tensor]:
    return lambda *tensors: torch.stack([y.square().sum() for y in outputs_of(call, tensors)]).sum()


@every
def test_a_gradient_penalty(backend: str, operator: Operator) -> None:
    """The penalty's second derivative is the reference's, its gradient the backend's own."""
    found, wanted = [], []
    for call, results in ((operator.call, found), (operator.reference, wanted)):
        tensors = operator.tensors()
        loss = squares(call)(*tensors)
        grads = torch.autograd.grad(loss, tensors, create_graph=True)
        penalty = torch.stack([g.square().sum() for g in grads]).sum()
        results += torch.autograd.grad(loss + penalty, tensors)
    assert all(err(a, b) < 1e-4 for a, b in zip(found, wanted, strict=True))


def directions(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.cos() for t in tensors)  # along itself, cocs_loss does not change


def twice(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack([t, 2 * t]) for t in tensors)


def jvp(f: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.func.jvp(f, tensors, directions(tensors))[1]


DERIVATIVES: dict[str, Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Any]] = {
    "jvp": jvp,
    "jacfwd": lambda f, t: torch.func.jacfwd(f)(*t),
    "vmap of jvp": lambda f, t: torch.vmap(lambda *t: jvp(f, t))(*twice(t)),
    "jvp of vmap": lambda f, t: jvp(torch.vmap(f), twice(t)),
    "grad of grad": lambda f, t: torch.func.grad(lambda *t: torch.func.grad(f)(*t).square().sum())(
        *t
    ),
    "hessian": lambda f, t: torch.func.hessian(f)(*t),
    "jacfwd, reversed": lambda f, t: torch.func.jacrev(torch.func.jacfwd(f))(*t),
}


@every
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_derivatives_by_transforms(operator: Operator, derivative: str) -> None:
    tensors = tuple(
        t.detach() for t in operator.tensors(torch.float64, B=2, P=2, D=3, R=2, H=2, W=2)
    )
    found = DERIVATIVES[derivative](squares(operator.call), tensors)
    wanted = DERIVATIVES[derivative](squares(operator.reference), tensors)
    assert wanted.count_nonzero() > 0
    assert err(found, wanted) < 1e-10


@every
def test_a_dual_level(backend: str, operator: Operator) -> None:
    tensors = [t.detach() for t in operator.tensors()]
    found, wanted = [], []
    for call, results in ((operator.call, found), (operator.reference, wanted)):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, t.cos()) for t in tensors]
            results += [forward_ad.unpack_dual(y).tangent for y in outputs_of(call, duals)]
    assert all(err(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))


@every
def test_a_third_derivative(operator: Operator) -> None:
    found, wanted = [], []
    for call, results in ((operator.call, found), (operator.reference, wanted)):
        x, *rest = operator.tensors(torch.float64, B=2, P=2, D=3, R=2, H=2, W=2)
        value = squares(call)(x, *rest)
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            value = grad.square().sum()
        results.append(grad.detach())
    assert wanted[0].count_nonzero() > 0
    assert err(found[0], wanted[0]) < 1e-10


@every
@pytest.mark.parametrize("derivative", ["grad", "jvp"])
def test_a_graph_that_contains_derivatives(operator: Operator, derivative: str) -> None:
    """torch.compile gives a Function or a raw operator there no derivative, or 0."""
    tensors = tuple(t.detach() for t in operator.tensors(torch.float64))
    make = DERIVATIVES.get(derivative, lambda f, t: torch.func.grad(f)(*t))
    loss = squares(operator.call)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: make(loss, t), fullgraph=True, backend="eager")
    found, wanted = compiled(*tensors), make(loss, tensors)
    assert wanted.count_nonzero() > 0
    assert err(found, wanted) < 1e-10


@every
def test_a_second_derivative_of_a_compiled_graph_raises(operator: Operator) -> None:
    tensors = operator.tensors()
    torch._dynamo.reset()
    compiled = torch.compile(squares(operator.call), backend="aot_eager")
    grads = torch.autograd.grad(compiled(*tensors), tensors, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(grads[0].square().sum(), tensors)


def test_a_second_derivative_under_hooks_of_saved_tensors_raises() -> None:
    """torch.func refuses these hooks; the first derivative works with them."""
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        ccdn_ops.covariance_pool(x).square().sum().backward()
        value = ccdn_ops.covariance_pool(x).square().sum()
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        with pytest.raises(RuntimeError, match="saved tensor hooks"):
            torch.autograd.grad(grad.sum(), x)
    assert x.grad is not None
    assert x.grad.count_nonzero() > 0
