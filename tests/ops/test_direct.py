"""The direct way of an eager call (ccdn_ops/ops/direct.py): where it is taken, and that it changes
nothing.

Results are compared with those of the general way, bit by bit. A call bound to the native kernels
never uses native.launch, and the general way always does.
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
from direct_calls import NEEDED, Passing, generally, way
from harness import laid_out
from operator_rows import BY_NAME, OPERATORS, Operator, outputs_of, upstream_of
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

import ccdn_ops
from ccdn_ops.backends import native, registry
from ccdn_ops.ops import direct, plain, recent
from ccdn_ops.ops.autograd import Differentiable
from ccdn_ops.ops.direct import Direct
from ccdn_ops.ops.isqrt_cov import _isqrt_cov
from ccdn_ops.ops.multi_excite import _multi_excite

pytestmark = NEEDED
__all__ = ["way"]  # a fixture of every test here
every = pytest.mark.parametrize("operator", OPERATORS, ids=str)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [{}, {"D": 40, "R": 10, "H": 3, "W": 3}, {"B": 1, "P": 1, "D": 1, "R": 1, "H": 1, "W": 1}]


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
    call, learn = Direct.__call__, Direct.learn

    def watched(usual: Callable[..., Any]) -> Callable[..., Any]:
        def way(self: Direct, *arguments: Any) -> Any:
            outputs = usual(self, *arguments)
            if outputs is not None:
                found.append(self.record.name)
            return outputs

        return way

    monkeypatch.setattr(Direct, "__call__", watched(call))
    monkeypatch.setattr(Direct, "learn", watched(learn))
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
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
    code = f"import torch\nwith {block}:\n    from ccdn_ops.ops import plain\nprint(*plain.PLAIN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {int(key) for key in done.stdout.split()} == plain.PLAIN


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


@pytest.mark.parametrize("moment", ["_bound", "run"])
def test_another_thread_chooses_a_backend(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a call is learnt. What is kept never serves calls that ask for another backend."""
    x, calls = torch.randn(2, 40, 9, 9), _isqrt_cov.direct
    with ccdn_ops.use_backend("reference"):
        wanted = ccdn_ops.isqrt_cov(x)
    calls.forget()
    first, then = ("reference", "cpu") if moment == "_bound" else ("cpu", "reference")
    owner: Any = calls if moment == "_bound" else recent
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
    for limit in ("KEPT", "RECENT"):
        monkeypatch.setattr(direct, limit, 4)
    ways = _multi_excite.direct
    ways.forget()
    found = ways.kept, ways.seen, ways.recent
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


@pytest.mark.parametrize("name", ["dual_squeeze", "cocs_loss", "ctm"])
def test_many_threads_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures come and go while others are in use."""
    monkeypatch.setattr(direct, "KEPT", 3)
    operator, wrong = BY_NAME[name], []
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
