"""The backward pass of a direct call (ccdn_ops/ops/direct.py): what watches or changes it, and what
runs it.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from direct_calls import NEEDED, generally, way
from harness import laid_out
from operator_rows import OPERATORS, Operator, outputs_of
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import ccdn_ops
from ccdn_ops.backends import compiled
from ccdn_ops.ops import direct
from ccdn_ops.ops.dual_squeeze import _dual_squeeze

pytestmark = NEEDED
__all__ = ["way"]  # a fixture of every test here


@pytest.fixture
def made() -> tuple[Tensor, Tensor]:
    """A leaf, and what a direct call made of it."""
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for _ in range(4):
        y = ccdn_ops.covariance_pool(x)
    return x, y


@pytest.fixture
def gradient(made: tuple[Tensor, Tensor]) -> Tensor:
    x, _ = made
    (wanted,) = generally(
        lambda: torch.autograd.grad(ccdn_ops.covariance_pool(x).square().sum(), x)
    )
    return wanted


def test_what_watches_a_backward_pass_sees_it(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(y.sum(), x, retain_graph=True)
    _, backward = ccdn_ops.explain("covariance_pool", *x.shape).operations
    assert counter.get_flop_counts()["Global"][torch.ops.ccdn.covariance_pool_backward] == backward
    with torch.profiler.profile() as profile:
        torch.autograd.grad(y.sum(), x)
    assert "ccdn::covariance_pool_backward" in {event.key for event in profile.key_averages()}


def test_the_profiler_sees_a_call(made: tuple[Tensor, Tensor]) -> None:
    with torch.profiler.profile() as profile:
        ccdn_ops.covariance_pool(made[0])
    assert "ccdn::covariance_pool" in {event.key for event in profile.key_averages()}


def test_the_profiler_of_all_threads_sees_a_call(made: tuple[Tensor, Tensor]) -> None:
    all_threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(experimental_config=all_threads) as profile:
        thread = threading.Thread(target=ccdn_ops.covariance_pool, args=made[:1])
        thread.start()
        thread.join()
    assert "ccdn::covariance_pool" in {event.key for event in profile.key_averages()}


def test_many_gradients_at_once(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    upstream = torch.randn(3, *y.shape)
    (found,) = torch.autograd.grad(y, x, upstream, is_grads_batched=True, retain_graph=True)
    for many, one in zip(found, upstream, strict=True):
        torch.testing.assert_close(many, torch.autograd.grad(y, x, one, retain_graph=True)[0])


def test_a_gradient_that_is_a_negative_view(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    upstream = torch.randn(y.shape)
    (wanted,) = torch.autograd.grad(y, x, -upstream, retain_graph=True)
    (found,) = torch.autograd.grad(y, x, torch._neg_view(upstream))
    assert found.equal(wanted)


@pytest.mark.parametrize("kind", ["to_mkldnn", "to_sparse"])
def test_a_gradient_in_another_memory(made: tuple[Tensor, Tensor], kind: str) -> None:
    """It raises what the general way raises."""
    x, y = made
    upstream = getattr(torch.ones_like(y), kind)()
    torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)

    def error() -> str:
        with pytest.raises(RuntimeError) as raised:
            torch.autograd.grad(ccdn_ops.covariance_pool(x), x, upstream)
        return str(raised.value)

    assert error() == generally(error)


def test_a_leaf_with_another_memory(made: tuple[Tensor, Tensor], gradient: Tensor) -> None:
    """What was bound is not read where the tensor no longer is what it was."""
    x, y = made
    x.data = x.data.contiguous(memory_format=torch.channels_last)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("restored", ["contiguous", "channels_last"])
def test_hooks_that_come_later(
    made: tuple[Tensor, Tensor], gradient: Tensor, restored: str
) -> None:
    x, y = made
    packed: list[Any] = []

    def unpack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return laid_out(tensor, restored) if tensor.dim() == 4 else tensor.clone()

    assert y.grad_fn is not None
    for saved in y.grad_fn._raw_saved_tensors:  # type: ignore[attr-defined]
        saved.register_hooks(lambda tensor: tensor.detach().clone(), unpack)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    assert packed
    torch.testing.assert_close(found, gradient)


def test_a_leaf_that_was_changed_raises(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y.sum(), x)


def test_a_second_backward_pass_raises(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    torch.autograd.grad(y.sum(), x)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), x)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_nodes_are_named_after_their_operator(operator: Operator) -> None:
    tensors = operator.tensors()
    nodes = [outputs_of(operator.call, tensors)[0].grad_fn for _ in range(2)]
    general = generally(lambda: outputs_of(operator.call, tensors)[0].grad_fn)
    assert {type(node).__name__ for node in nodes} == {type(general).__name__}


def test_another_backend_for_the_backward_pass(made: tuple[Tensor, Tensor]) -> None:
    x, y = made
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, upstream, retain_graph=True)[0]

    general = generally(lambda: ccdn_ops.covariance_pool(x))
    with ccdn_ops.use_backend("reference"):
        wanted = gradient(general)
        assert gradient(y).equal(wanted)
    assert not gradient(y).equal(wanted)  # or the test sees nothing
    with ccdn_ops.use_backend("cuda"), pytest.raises(RuntimeError, match="cannot serve"):
        gradient(y)


def test_compiled_autograd(made: tuple[Tensor, Tensor], gradient: Tensor) -> None:
    """The graph of a direct call's node is compiled when its backward pass runs."""
    from torch._dynamo import compiled_autograd

    x, _ = made
    torch._dynamo.reset()
    with compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
        ccdn_ops.covariance_pool(x).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(made: tuple[Tensor, Tensor], gradient: Tensor, reentrant: bool) -> None:
    x, _ = made
    y = checkpoint(ccdn_ops.covariance_pool, x, use_reentrant=reentrant)
    (y.square().sum()).backward()
    assert x.grad is not None
    assert x.grad.equal(gradient)


def test_a_gradient_of_a_gradient(made: tuple[Tensor, Tensor]) -> None:
    x, y = made

    def second(y: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    found = second(y)
    assert found.count_nonzero() > 0
    assert found.equal(generally(lambda: second(ccdn_ops.covariance_pool(x))))


def test_few_kinds_of_gradients_are_kept() -> None:
    """Of one signature, which second_order_squeeze shares with dual_squeeze."""
    x = torch.randn(2, 12, 3, 4, requires_grad=True)
    _dual_squeeze.direct.forget()
    for _ in range(3):
        for function in (ccdn_ops.dual_squeeze, ccdn_ops.second_order_squeeze):
            found = function(x)
            outputs = (found,) if isinstance(found, Tensor) else found
            torch.autograd.grad(outputs, x, [torch.ones_like(y) for y in outputs])
    (call,) = _dual_squeeze.direct.kept.values()
    assert len(call.expected) == 2 or compiled.module() is None
    for step in range(1, 9):
        first, second = ccdn_ops.dual_squeeze(x)
        strided = torch.ones(2, 12 * step)[:, ::step]
        torch.autograd.grad((first, second), x, (strided, torch.ones_like(second)))
    assert len(call.expected) <= direct.EXPECTED


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_strides_that_say_nothing(operator: Operator) -> None:
    """Maps of one place are contiguous in every order; results keep the order of the maps."""
    if operator.shapes[0] != "BDHW":
        pytest.skip("it takes no maps")
    first, *others = operator.tensors(H=1, W=1)
    size, channels = first.shape, first.shape[1]
    x = torch.empty_strided(size, (channels, 1, channels, channels)).copy_(first.detach())
    tensors = [x.requires_grad_(), *others]

    def strides() -> list[tuple[int, ...]]:
        outputs = outputs_of(operator.call, tensors)
        grads = torch.autograd.grad(outputs, tensors, [torch.ones_like(y) for y in outputs])
        return [tensor.stride() for tensor in (*outputs, *grads)]

    wanted = generally(strides)
    assert all(strides() == wanted for _ in range(3))
