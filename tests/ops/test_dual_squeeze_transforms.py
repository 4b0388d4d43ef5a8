"""dual_squeeze under autograd, torch.func, torch.compile, export and torch.library's own checks."""

from __future__ import annotations

import math

import pytest
import torch
from harness import err, features, upstream
from torch import Tensor

from ccdn_ops import dual_squeeze, reference

# The smaller side is the channels, the positions, and both.
SHAPES = [(2, 3, 7), (2, 7, 3), (1, 4, 4)]


def loss(x: Tensor) -> Tensor:
    first, second = dual_squeeze(x)
    return (first * second.sin()).sum() + second.square().sum()


@pytest.mark.parametrize("shape", [*SHAPES, (2, 1, 5), (1, 5, 2), (2, 3, 2, 4)])
@pytest.mark.parametrize("iterations", [1, 2, 5, 10])
def test_gradcheck(backend: str, shape: tuple[int, ...], iterations: int) -> None:
    x = features("noise", shape[0], shape[1], math.prod(shape[2:]), dtype=torch.float64)
    x = x.view(shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dual_squeeze(x, iterations), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_is_right(shape: tuple[int, ...]) -> None:
    # K = 10 iterations have converged on these: the exact square root, by eigenvalues.
    x = features("noise", *shape, dtype=torch.float64)
    if shape[2] > shape[1]:
        centred = x - x.mean(2, keepdim=True)
        values, vectors = torch.linalg.eigh(centred @ centred.mT / shape[2])
        root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT
        assert err(reference.dual_squeeze(x, 10)[1], root.mean(1)) < 1e-10
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference.dual_squeeze(x, 5), x)
    assert torch.autograd.gradgradcheck(lambda x: reference.dual_squeeze(x, 3), x)


def layouts(x: Tensor) -> list[Tensor]:
    deep = x.view(*x.shape[:2], 2, -1)
    return [x, deep, deep.to(memory_format=torch.channels_last), deep[..., ::2], x.to(torch.half)]


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 9, 4)])
@pytest.mark.parametrize("layout", range(5))
def test_opcheck(backend: str, shape: tuple[int, ...], layout: int) -> None:
    x = layouts(features("noise", *shape))[layout]
    torch.library.opcheck(torch.ops.ccdn.dual_squeeze.default, (x, 5))
    first, second, *saved = torch.ops.ccdn.dual_squeeze(x, 5)
    arguments = (first, second, x, *saved, 5)
    torch.library.opcheck(torch.ops.ccdn.dual_squeeze_backward.default, arguments)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 1)])
@pytest.mark.parametrize("iterations", [1, 5, 10])
def test_gradgradcheck(backend: str, shape: tuple[int, ...], iterations: int) -> None:
    x = features("noise", *shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: dual_squeeze(x, iterations), x, fast_mode=True)


def test_a_sample_without_variance_has_no_second_derivative(backend: str) -> None:
    x = features("noise", 2, 3, 7)
    x[1] = 1
    x.requires_grad_()
    (grad,) = torch.autograd.grad(dual_squeeze(x)[1].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    assert second[0].count_nonzero() > 0
    assert (second[1] == 0).all()


def test_one_of_the_outputs_is_differentiated_alone(backend: str) -> None:
    x = features("noise", 2, 3, 7, dtype=torch.float64).requires_grad_()
    for output in range(2):
        second = []
        for function in (dual_squeeze, reference.dual_squeeze):
            value = (function(x)[output] * x.mean(2)).square().sum()
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            second += torch.autograd.grad(grad.square().sum(), x)
        assert err(*second) < 1e-12


@pytest.mark.parametrize("in_dim", [0, 1, 2, 3])
def test_vmap(backend: str, in_dim: int) -> None:
    xs = features("dominant", 4, 6, 20).view(4, 1, 6, 20).expand(4, 2, 6, 20).contiguous()
    xs[:, 1] *= torch.linspace(1, 2, 20)
    moved = xs.movedim(0, in_dim)
    for raw in (dual_squeeze, torch.ops.ccdn.dual_squeeze):
        found = torch.func.vmap(lambda x, f=raw: f(x, 5)[:2], in_dims=in_dim)(moved)
        for i in range(4):
            for y, wanted in zip(found, dual_squeeze(xs[i]), strict=True):
                assert err(y[i], wanted) < 5e-7


@pytest.mark.parametrize("shape", [(2, 6, 20), (2, 20, 6)])
def test_vmap_of_the_gradient(backend: str, shape: tuple[int, ...]) -> None:
    xs = torch.stack([features("dominant", *shape, seed=seed) for seed in range(3)])
    found = torch.func.vmap(torch.func.grad(loss))(xs)
    for x, grad in zip(xs, found, strict=True):
        assert err(grad, torch.func.grad(loss)(x)) < 5e-7
    # One x, a batch of upstream gradients: the vmap that jacrev is made of.
    x, gs = xs[0], torch.stack([upstream(xs[0], seed=seed) for seed in range(3)])
    _, pullback = torch.func.vjp(lambda x: dual_squeeze(x)[1], x)
    (found,) = torch.func.vmap(pullback)(gs)
    for g, grad in zip(gs, found, strict=True):
        assert err(grad, pullback(g)[0]) < 5e-7


def test_vmap_of_one_sample(backend: str) -> None:
    # What is saved for the gradient arrives expanded, its stride 0: one x, many upstream gradients.
    x = features("dominant", 1, 6, 20)
    _, pullback = torch.func.vjp(lambda x: dual_squeeze(x)[1], x)
    (found,) = torch.func.vmap(pullback)(torch.eye(6).unsqueeze(1))
    for g, grad in zip(torch.eye(6), found, strict=True):
        assert err(grad, pullback(g.unsqueeze(0))[0]) < 5e-7


@pytest.mark.parametrize(("shape", "in_dim"), [((0, 2, 4, 5), 0), ((2, 4, 0, 5), 2)])
def test_vmap_over_nothing(backend: str, shape: tuple[int, ...], in_dim: int) -> None:
    second = torch.func.vmap(lambda x: dual_squeeze(x)[1], in_dims=in_dim)(torch.zeros(shape))
    assert second.shape == (0, 2, 4)
    grad = torch.func.vmap(torch.func.grad(loss), in_dims=in_dim)(torch.zeros(shape))
    assert grad.shape == (0, 2, 4, 5)


def test_jacrev(backend: str) -> None:
    x = features("noise", 1, 4, 6, dtype=torch.float64)
    found = torch.func.jacrev(lambda x: dual_squeeze(x)[1])(x)
    wanted = torch.func.jacrev(lambda x: reference.dual_squeeze(x)[1])(x)
    assert err(found, wanted) < 1e-12


def test_compile(backend: str) -> None:
    compiled = torch.compile(loss, fullgraph=True)
    for x in (features("dominant", 2, 6, 20), features("dominant", 2, 6, 20).view(2, 6, 4, 5)):
        eager, traced = x.clone().requires_grad_(), x.clone().requires_grad_()
        value = compiled(traced)
        value.backward()
        loss(eager).backward()
        assert err(value.detach(), loss(x)) < 1e-6
        assert err(traced.grad, eager.grad) < 1e-6


def test_compile_with_any_batch(backend: str) -> None:
    check_one_graph([(2, 6, 20), (3, 6, 20), (5, 6, 20)], dim=0)


def test_compile_with_any_size(backend: str) -> None:
    check_one_graph([(2, 6, 20), (2, 6, 30), (2, 6, 41)], dim=2)
    check_one_graph([(2, 12, 5), (2, 20, 5), (2, 31, 5)], dim=1)


def check_one_graph(shapes: list[tuple[int, ...]], dim: int) -> None:
    """One graph serves all shapes, which differ in a dimension that is marked as dynamic."""
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in shapes:
            x = features("dominant", *shape).requires_grad_()
            torch._dynamo.mark_dynamic(x, dim)
            (found,) = torch.autograd.grad(compiled(x), x)
            (wanted,) = torch.autograd.grad(loss(x), x)
            assert err(found, wanted) < 1e-6


def test_meta_tensors() -> None:
    x = torch.empty(2, 6, 4, 5, device="meta", requires_grad=True)
    for squeeze in (dual_squeeze, reference.dual_squeeze):
        first, second = squeeze(x)
        assert first.shape == second.shape == (2, 6)
        (grad,) = torch.autograd.grad(second.sum(), x)
        assert grad.shape == x.shape


@pytest.mark.parametrize("strict", [False, True])
def test_export(backend: str, strict: bool) -> None:
    class Squeeze(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(dual_squeeze(x), 1)

    x = features("dominant", 2, 6, 20)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Squeeze(), (x,), dynamic_shapes=({0: batch},), strict=strict)
    for size in (2, 7):
        x = features("dominant", size, 6, 20)
        assert program.module()(x).equal(Squeeze()(x))


def test_inference_mode(backend: str) -> None:
    x = features("dominant", 2, 6, 20)
    with torch.inference_mode():
        found = dual_squeeze(x)
    assert all(a.equal(b) for a, b in zip(found, dual_squeeze(x), strict=True))
