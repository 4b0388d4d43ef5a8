"""The direct way of an eager call (ccdn_ops/ops/direct.py): where it is taken, and that it changes
nothing.

The general way is taken under a dispatch mode, so that is what results are compared with, bit by
bit. A call bound to the native kernels never uses native.launch, and the general way always does.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from harness import laid_out
from operator_rows import BY_NAME, OPERATORS, Operator, outputs_of, upstream_of
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import ccdn_ops
from ccdn_ops.backends import native, registry
from ccdn_ops.backends.triton.launcher import interpreted
from ccdn_ops.ops import direct
from ccdn_ops.ops.autograd import Differentiable
from ccdn_ops.ops.direct import Direct
from ccdn_ops.ops.isqrt_cov import _isqrt_cov
from ccdn_ops.ops.multi_excite import _multi_excite

pytestmark = [
    pytest.mark.skipif(native.module() is None, reason=str(native.why_missing())),
    pytest.mark.skipif(interpreted(), reason="of the CPU backend"),
]
every = pytest.mark.parametrize("operator", OPERATORS, ids=str)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [{}, {"D": 40, "R": 10, "H": 3, "W": 3}, {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1}]


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


class Subclass(Tensor):
    pass


def step(
    call: Callable[..., Any], tensors: Sequence[Tensor], only: int | None = None
) -> list[Tensor | None]:
    """The outputs and the gradients, through one output or through all."""
    outputs = outputs_of(call, tensors)
    chosen = outputs if only is None else outputs[only : only + 1]
    upstream = [upstream_of(y) for y in chosen]
    grads = torch.autograd.grad(chosen, tensors, upstream, allow_unused=True)
    return [*(y.detach() for y in outputs), *grads]


def generally(function: Callable[[], Any]) -> Any:
    with Passing():
        return function()


def assert_same(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
            assert a.equal(b)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that were direct."""
    found: list[Any] = []
    run = Direct._run

    def watched(self: Direct, call: Any, inputs: Sequence[Any]) -> Any:
        outputs = run(self, call, inputs)
        if outputs is not None:
            found.append(self.record.name)
        return outputs

    monkeypatch.setattr(Direct, "_run", watched)
    return found


@contextmanager
def nothing_but_bound(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any call of the general way fails, and of a kernel that is not bound."""

    def refuse(*_: Any) -> None:
        raise AssertionError("this call is not direct")

    with monkeypatch.context() as patch:
        patch.setattr(Differentiable, "__call__", refuse)
        patch.setattr(native, "launch", refuse)
        yield


# It is taken -------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_third_call_is_bound(
    operator: Operator, dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = operator.tensors(dtype)
    if operator.shapes[0] == "BDHW":
        tensors[0] = laid_out(tensors[0].detach(), layout).requires_grad_()
    wanted = generally(lambda: step(operator.call, tensors))
    frozen = [t.detach() for t in tensors]
    outputs = outputs_of(operator.call, frozen)
    step(operator.call, tensors)
    with nothing_but_bound(monkeypatch):
        assert_same(step(operator.call, tensors), wanted)
        assert_same(outputs_of(operator.call, frozen), outputs)
        step(operator.call, [torch.nn.Parameter(t) for t in frozen])
        with torch.inference_mode():
            outputs_of(operator.call, frozen)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(step(operator.call, tensors), wanted)


@every
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=["small", "wide", "ones"])
def test_it_changes_no_bit(
    operator: Operator, dtype: torch.dtype, sizes: dict[str, int], taken: list[Any]
) -> None:
    tensors = operator.tensors(dtype, **sizes)
    frozen = [t.detach() for t in tensors]
    for only in (None, *range(len(operator.outputs))):
        wanted = generally(lambda only=only: step(operator.call, tensors, only))
        assert not taken
        for _ in range(2):
            assert_same(step(operator.call, tensors, only), wanted)
        assert taken
        taken.clear()
    wanted = generally(lambda: outputs_of(operator.call, frozen))
    for _ in range(2):
        assert_same(outputs_of(operator.call, frozen), wanted)


@every
@pytest.mark.parametrize("layout", ["sliced", "transposed", "batch_strided", "expanded"])
def test_other_layouts(operator: Operator, layout: str) -> None:
    if operator.shapes[0] != "BDHW":
        pytest.skip("it takes no maps")
    for sizes in SIZES[:2]:
        tensors = operator.tensors(**sizes)
        tensors[0] = laid_out(tensors[0].detach(), layout).requires_grad_()
        wanted = generally(lambda tensors=tensors: step(operator.call, tensors))
        for _ in range(2):
            assert_same(step(operator.call, tensors), wanted)


@every
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_frozen_inputs_and_expanded_gradients(operator: Operator, backend: str) -> None:
    tensors = operator.tensors()
    with ccdn_ops.use_backend(backend):
        for leaf in tensors:
            given = [t if t is leaf else t.detach() for t in tensors]

            def gradient(given: Sequence[Tensor] = given, leaf: Tensor = leaf) -> list[Tensor]:
                total = sum(y.sum() for y in outputs_of(operator.call, given))
                return list(torch.autograd.grad(total, leaf))  # type: ignore[arg-type]

            wanted = generally(gradient)
            for _ in range(2):
                assert_same(gradient(), wanted)


@every
def test_results_are_not_written_again(operator: Operator) -> None:
    tensors = [t.detach() for t in operator.tensors()]
    others = [t.detach() for t in operator.tensors(seed=1)]
    for _ in range(2):
        first = outputs_of(operator.call, tensors)
        kept = [y.clone() for y in first]
        outputs_of(operator.call, others)
        assert_same(first, kept)


@pytest.mark.parametrize("block", ["torch.device('meta')", "torch.inference_mode()"])
def test_a_block_around_the_import_changes_nothing(block: str) -> None:
    code = f"import torch\nwith {block}:\n    from ccdn_ops.ops import direct\nprint(*direct.PLAIN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {int(key) for key in done.stdout.split()} == direct.PLAIN


# It is left --------------------------------------------------------------------------------------


def dual(call: Callable[..., Any], x: Tensor) -> None:
    with forward_ad.dual_level():
        call(forward_ad.make_dual(x.detach(), torch.ones_like(x)))


def within(context: Callable[[], Any]) -> Callable[[Callable[..., Any], Tensor], None]:
    def situation(call: Callable[..., Any], x: Tensor) -> None:
        with context():
            call(x)

    return situation


def compiled(call: Callable[..., Any], x: Tensor) -> None:
    torch._dynamo.reset()
    torch.compile(call, backend="eager", fullgraph=True)(x)


def exported(call: Callable[..., Any], x: Tensor) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return call(x)

    torch.export.export(Module(), (x.detach(),), strict=False)


SITUATIONS: dict[str, Callable[[Callable[..., Any], Tensor], Any]] = {
    "a dispatch mode": within(Passing),
    "a function mode": within(PassingFunctions),
    "the profiler": within(torch.profiler.profile),
    "hooks of saved tensors": within(torch.autograd.graph.save_on_cpu),
    "a subclass": lambda call, x: call(x.detach().as_subclass(Subclass)),
    "a negative view": lambda call, x: call(torch._neg_view(x.detach())),
    "another device": lambda call, x: call(x.detach().to("meta")),
    "vmap": lambda call, x: torch.vmap(call)(torch.stack([x.detach(), x.detach()])),
    "grad": lambda call, x: torch.func.grad(lambda x: call(x)[0].sum())(x.detach()),
    "jvp": lambda call, x: torch.func.jvp(call, (x.detach(),), (torch.ones_like(x),)),
    "a dual level": dual,
    "a trace": lambda call, x: torch.jit.trace(call, x.detach(), check_trace=False),
    "torch.compile": compiled,
    "export": exported,
    "an empty batch": lambda call, x: call(x.detach()[:0]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_is_left(situation: str, taken: list[Any]) -> None:
    x = torch.randn(2, 5, 3, 4, requires_grad=True)
    for _ in range(2):
        ccdn_ops.dual_squeeze(x)
        ccdn_ops.dual_squeeze(x.detach())
    assert taken
    taken.clear()
    SITUATIONS[situation](ccdn_ops.dual_squeeze, x)
    assert not taken
    ccdn_ops.dual_squeeze(x)
    assert taken


def test_checks_are_not_forgotten() -> None:
    x = torch.randn(2, 5, 3, 4)
    for iterations in (1, 5):
        ccdn_ops.dual_squeeze(x, iterations)
        ccdn_ops.isqrt_cov(x, iterations, False)
    for nothing in ([], ()):
        with pytest.raises(ValueError, match="features is empty"):
            ccdn_ops.cocs_loss(nothing)
    for wrong in (True, 5.0, 1.0, 0, 11, [5], None, "5"):
        with pytest.raises((TypeError, ValueError), match="iterations is"):
            ccdn_ops.dual_squeeze(x, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="triu is 0"):
        ccdn_ops.isqrt_cov(x, 5, 0)  # type: ignore[arg-type]
    a = torch.eye(3).expand(2, 3, 3).contiguous()
    ccdn_ops.newton_schulz_sqrt(a)
    with pytest.raises(TypeError, match="inverse is 0"):
        ccdn_ops.newton_schulz_sqrt(a, 5, 0)  # type: ignore[call-overload]


# A backward pass of a direct call ----------------------------------------------------------------


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


@every
def test_nodes_are_named_after_their_operator(operator: Operator) -> None:
    tensors = operator.tensors()
    nodes = [outputs_of(operator.call, tensors)[0].grad_fn for _ in range(2)]
    general = generally(lambda: outputs_of(operator.call, tensors)[0].grad_fn)
    assert {type(node).__name__ for node in nodes} == {type(general).__name__}


# What changes between two calls ------------------------------------------------------------------


def test_another_number_of_threads() -> None:
    x = torch.randn(8, 40, 9, 9, requires_grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 3, 2, 1):
            torch.set_num_threads(count)
            found.append(step(ccdn_ops.dual_squeeze, [x]))
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        assert_same(one, found[0])


def test_another_backend() -> None:
    x = torch.randn(2, 40, 9, 9)
    with ccdn_ops.use_backend("reference"):
        wanted = ccdn_ops.isqrt_cov(x)
    native_result = ccdn_ops.isqrt_cov(x)
    assert not native_result.equal(wanted)  # or the test sees nothing
    for _ in range(2):
        with ccdn_ops.use_backend("reference"):
            assert ccdn_ops.isqrt_cov(x).equal(wanted)
        assert ccdn_ops.isqrt_cov(x).equal(native_result)


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


@pytest.mark.parametrize("moment", ["_bound", "guard"])
def test_another_thread_chooses_a_backend(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a call is learnt. What is kept never serves calls that ask for another backend."""
    x, calls = torch.randn(2, 40, 9, 9), _isqrt_cov.direct
    with ccdn_ops.use_backend("reference"):
        wanted = ccdn_ops.isqrt_cov(x)
    for found in (calls.kept, calls.seen, *calls.recent):
        found.clear()
    first, then = ("reference", "cpu") if moment == "_bound" else ("cpu", "reference")
    owner: Any = calls if moment == "_bound" else direct
    usual, times = getattr(owner, moment), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal times
        times += 1
        other.enter_context(ccdn_ops.use_backend(then))
        return usual(*arguments)

    with ccdn_ops.use_backend(first), ExitStack() as other, monkeypatch.context() as patch:
        patch.setattr(owner, moment, interrupted)
        while not times:
            ccdn_ops.isqrt_cov(x)
    assert times == 1
    with ccdn_ops.use_backend("reference"):
        assert all(ccdn_ops.isqrt_cov(x).equal(wanted) for _ in range(4))


def test_another_registration() -> None:
    x, seen = torch.randn(2, 5, 3, 4), []
    ccdn_ops.covariance_pool(x)
    before = registry.load("covariance_pool", "cpu")
    assert before is not None

    def forward(x: Tensor) -> Any:
        seen.append(x)
        return before.forward(x)

    offer = {"backend": "cpu", "backward": before.backward, "supports": before.supports}
    try:
        registry.register("covariance_pool", forward=forward, **offer)  # type: ignore[arg-type]
        for count in (1, 2):
            ccdn_ops.covariance_pool(x)
            assert len(seen) == count
    finally:
        offer["bind"] = before.bind
        registry.register("covariance_pool", forward=before.forward, **offer)  # type: ignore[arg-type]
    ccdn_ops.covariance_pool(x)
    assert len(seen) == 2


def test_few_signatures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "KEPT", 4)
    ways = _multi_excite.direct
    found = ways.kept, ways.seen, ways.recent[False]
    for signatures in found:
        signatures.clear()
    for size in range(1, 12):
        for _ in range(3):
            ccdn_ops.multi_excite(torch.ones(1, size, 2, 2), torch.ones(1, 2, size))
        assert all(len(signatures) <= 4 for signatures in found)
        assert all(found)


def test_sizes_that_come_once_are_not_kept(taken: list[Any]) -> None:
    kept = _multi_excite.direct.kept
    before = len(kept)
    for size in range(60, 70):
        ccdn_ops.multi_excite(torch.ones(1, size, 2, 2), torch.ones(1, 2, size))
    assert len(kept) == before
    assert not taken


def test_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures come and go while others are in use."""
    monkeypatch.setattr(direct, "KEPT", 3)
    operator, wrong = BY_NAME["dual_squeeze"], []
    cases = [operator.tensors(D=channels) for channels in range(2, 9)]
    wanted = [generally(lambda t=tensors: step(operator.call, t)) for tensors in cases]

    def work(number: int) -> None:
        for turn in range(30):
            which = (turn + number) % len(cases)
            found = step(operator.call, cases[which])
            if not all(a.equal(b) for a, b in zip(found, wanted[which], strict=True)):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Others that run a backward pass ------------------------------------------------------------------


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
