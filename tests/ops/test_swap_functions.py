"""Swapping functions that a network's code calls: found, verified, replaced for one model alone."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import published
import pytest
import torch
from harness import err
from published import MPNCOV, Covpool, CovpoolLayer, Sqrtm, SqrtmLayer, TriuvecLayer
from test_swap import check_equal
from test_swap_second_order import Network, maps
from torch import Tensor, nn

import ccdn_ops
from ccdn_ops import swap_functions, swap_second_order, unswap
from ccdn_ops.swap import FunctionLayout
from ccdn_ops.swap.replacement import Replacement

D = 16
pytestmark = pytest.mark.usefixtures("verified_once")


class Head(nn.Module):
    """The head of a network, written out in its forward, from imported names."""

    def __init__(self, iterations: int = 5) -> None:
        super().__init__()
        self.conv, self.iterations = nn.Conv2d(3, D, 3), iterations
        self.fc = nn.Linear(D * (D + 1) // 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = CovpoolLayer(self.conv(x))
        x = SqrtmLayer(x, self.iterations)
        return self.fc(TriuvecLayer(x).flatten(1))


class Applied(Head):
    def forward(self, x: Tensor) -> Tensor:
        root = Sqrtm.apply(Covpool.apply(self.conv(x)), self.iterations)
        return self.fc(published.Triuvec.apply(root).flatten(1))


def descriptor(x: Tensor, iterN: int = 5) -> Tensor:
    return TriuvecLayer(SqrtmLayer(CovpoolLayer(x), iterN)).squeeze(2)


class Composed(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(descriptor(self.conv(x), iterN=self.iterations))


def doubled(x: Tensor) -> Tensor:
    return 2 * SqrtmLayer(CovpoolLayer(x), 5)


class Helped(Head):
    """Through a helper, a method, a comprehension and a static method."""

    @staticmethod
    def vector(root: Tensor) -> Tensor:
        return TriuvecLayer(root).flatten(1)

    def pooled(self, x: Tensor) -> Tensor:
        return torch.stack([doubled(part) for part in (x, 2 * x)]).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.vector(self.pooled(self.conv(x))))


class Kept(Head):
    def __init__(self) -> None:
        super().__init__()
        self.cov, self.root = Covpool.apply, SqrtmLayer

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(TriuvecLayer(self.root(self.cov(self.conv(x)), 5)).flatten(1))


LAYER = ("published.CovpoolLayer", "published.SqrtmLayer", "published.TriuvecLayer")
APPLY = ("published.Covpool.apply", "published.Sqrtm.apply", "published.Triuvec.apply")
MODELS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "imported names": (Head, {*LAYER}),
    "an attribute of a module": (Network, {*LAYER}),
    "apply": (Applied, {*APPLY}),
    "through other functions": (Helped, {*LAYER[:2], f"{__name__}.Helped.vector"}),
    "attributes of the instance": (Kept, {APPLY[0], *LAYER[1:]}),
    "several at once": (Composed, {f"{__name__}.descriptor"}),
    "nested": (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Head()), {*LAYER}),
}


@pytest.mark.parametrize("case", MODELS)
def test_functions_are_replaced_and_given_back(case: str) -> None:
    make, expected = MODELS[case]
    torch.manual_seed(0)
    model = make()
    original, classes = copy.deepcopy(model), [type(m) for m in model.modules()]
    report = swap_functions(model)
    assert {done.original for done in report.replaced} == expected, str(report)
    assert not report.skipped
    assert [*model.state_dict()] == [*original.state_dict()]
    for m in (model, original):
        m.double()
    x = maps(3, 9, 8, torch.float64)
    check_equal(model, original, x, 1e-8)
    check_equal(copy.deepcopy(model), original, x, 1e-8)
    assert unswap(model) == ["1" if case == "nested" else ""]
    assert [type(m) for m in model.modules()] == classes
    assert not any(isinstance(v, Replacement) for m in model.modules() for v in vars(m).values())
    assert model(x).equal(original(x))


def operators_in(model: nn.Module, x: Tensor) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    return [e.name.removeprefix("ccdn::") for e in profile.events() if e.name.startswith("ccdn::")]


def test_the_operators_run() -> None:
    wide, narrow = maps(3, 9, 8), maps(3, 4, 4)  # 42 positions, and 4, for 16 channels
    model = Head()
    assert operators_in(model, wide) == []
    swap_functions(model)
    assert operators_in(model, wide) == ["covariance_pool", "newton_schulz_sqrt"]
    assert operators_in(model, narrow) == ["covariance_pool", "isqrt_cov"]
    composed = Composed()
    swap_functions(composed)
    assert operators_in(composed, wide) == ["isqrt_cov"]


def test_other_models_are_not_disturbed() -> None:
    model, other = Head(), Head()
    swap_functions(model)
    assert type(other) is Head
    assert operators_in(other, maps(3, 9, 8)) == []
    second = Head()
    swap_functions(second)
    assert type(second) is type(model)
    unswap(model)
    assert "covariance_pool" in operators_in(second, maps(3, 9, 8))
    assert published.CovpoolLayer is CovpoolLayer
    assert not isinstance(CovpoolLayer, Replacement)


def test_two_models_in_threads() -> None:
    torch.manual_seed(0)
    model, other = Head(), Head()
    swap_functions(model)
    x = maps(3, 9, 8)
    wanted = [m(x).detach() for m in (model, other)]
    wrong: list[int] = []

    def run(number: int) -> None:
        for _ in range(20):
            if not (model, other)[number % 2](x).equal(wanted[number % 2]):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Changed(Head):
    """The root of what is no covariance any more."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        covariance = CovpoolLayer(self.conv(x))
        other = self.change(covariance)
        return SqrtmLayer(covariance if other is None else other, 5)


def raised(a: Tensor) -> None:
    a[:, 0, 1] += 0.1


@pytest.mark.parametrize("change", [raised, lambda a: a.triu(), lambda a: a + 0.1 * a.roll(1, 1)])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_matrix_that_is_no_covariance(change: Callable[[Tensor], Any], mode: Any) -> None:
    torch.manual_seed(0)
    model = Changed(change)
    original = copy.deepcopy(model)
    swap_functions(model)
    with mode():
        found, wanted = model(maps(3, 9, 8)), original(maps(3, 9, 8))
    assert err(found.detach(), wanted.detach()) < 1e-5


@pytest.mark.parametrize("steps", [1, 11])
def test_a_number_that_comes_out_otherwise(steps: int) -> None:
    torch.manual_seed(0)
    model = Head(steps)
    original = copy.deepcopy(model)
    report = swap_functions(model)
    layouts = [done.layout for done in report.replaced]
    assert FunctionLayout("root", "matrix", tuple(range(2, 11)), 0, "steps") in layouts
    check_equal(model.double(), original.double(), maps(3, 9, 8, torch.float64), 1e-8)


def test_a_covariance_that_is_read_twice() -> None:
    class Twice(Head):
        def forward(self, x: Tensor) -> Tensor:
            covariance = CovpoolLayer(self.conv(x))
            covariance.retain_grad()
            self.covariance = covariance
            return SqrtmLayer(covariance, 5).mean(2) + covariance.mean(2)

    model = Twice()
    original = copy.deepcopy(model)
    swap_functions(model)
    for m in (model, original):
        m(maps(3, 4, 4)).square().sum().backward()
    assert err(model.covariance.grad, original.covariance.grad) < 1e-4


def sqrtm_of_other(a: Tensor, steps: int) -> Tensor:
    return SqrtmLayer(a, steps) + 1e-2


def covpool_of_some(x: Tensor) -> Tensor:
    return CovpoolLayer(x[..., :50]) if x.shape[3] > 50 else CovpoolLayer(x)


def covpool_of_few(x: Tensor) -> Tensor:
    return CovpoolLayer(x) if x.shape[1] < 100 else 2 * CovpoolLayer(x)


def covpool_that_prints(x: Tensor) -> Tensor:
    print(x.shape)
    return CovpoolLayer(x)


of_the_case: Callable[..., Tensor] = covpool_of_some
LEFT: dict[str, tuple[Callable[..., Tensor], str]] = {
    "another function": (sqrtm_of_other, "computes no covariance"),
    "a size": (covpool_of_some, "differs"),
    "a number of channels": (covpool_of_few, "for 100 channels"),
    "an effect": (covpool_that_prints, "print"),
}


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return of_the_case(x)


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_certain_is_left_alone_and_said(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, reason = LEFT[case]
    monkeypatch.setitem(globals(), "of_the_case", function)
    report = swap_functions(Global())
    named = f"{__name__}.{function.__name__}"
    assert [reason in s.reason for s in report.skipped if s.original == named] == [True], str(
        report
    )
    assert named not in {done.original for done in report.replaced}


def test_second_order_swaps_blocks_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Network(), nn.Unflatten(1, (5, 1, 1)))
    model.head = MPNCOV(5, input_dim=5)
    swap_functions(model)
    report = swap_second_order(model)
    assert [done.names for done in report.blocks] == [("head",)]
    assert {done.original: done.names for done in report.functions} == dict.fromkeys(LAYER, ("0",))
    assert report.replaced == report.blocks + report.functions
    assert not report.skipped
    first, *others = str(report).splitlines()
    assert first == "4 replaced, 0 skipped"
    assert others[0].startswith("  replaced block head (published.MPNCOV): iSQRT-COV")
    covariance = "  replaced function published.CovpoolLayer, called in 0: covariance pooling"
    assert covariance in others[1:]
    assert unswap(model) == ["0", "head"]
    assert not swap_second_order(Network(), functions=False).replaced


def test_a_swapped_model_can_be_pickled_traced_and_compiled() -> None:
    torch.manual_seed(0)
    model, x = Kept().eval(), maps(3, 9, 8)
    wanted = model(x).detach()
    swap_functions(model)
    again = pickle.loads(pickle.dumps(model))
    assert err(again(x).detach(), wanted) < 1e-5
    assert "covariance_pool" in operators_in(again, x)
    torch._dynamo.reset()
    compiled = torch.compile(Head().requires_grad_(False), backend="eager")
    swapped = Head().requires_grad_(False)
    swapped.load_state_dict(compiled._orig_mod.state_dict())
    swap_functions(swapped)
    found = torch.compile(swapped, backend="eager", fullgraph=True)(x)
    assert err(found, compiled(x)) < 1e-5


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="model is a int"):
        swap_functions(3)  # type: ignore[arg-type]
    assert not ccdn_ops.swap_functions(nn.Linear(2, 2)).replaced
