"""Functions that a swap leaves alone and calls that it cannot reach, each with its reason."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from published import CovpoolLayer, SqrtmLayer, TriuvecLayer
from test_swap import check_equal
from test_swap_call_styles import Base
from test_swap_second_order import maps
from torch import Tensor, nn

from ccdn_ops import swap_functions, swap_second_order

POOLS = {"cov": CovpoolLayer}
pytestmark = pytest.mark.usefixtures("verified_once")


class Compared(Base):
    def pool(self, x: Tensor, kind: Any = None) -> Tensor:
        kind = kind or POOLS["cov"]
        return kind(x) if kind is CovpoolLayer else CovpoolLayer(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


class FromADict(Base):
    def forward(self, x: Tensor) -> Tensor:
        return POOLS["cov"](self.conv(x))


class FromAList(Base):
    def __init__(self) -> None:
        super().__init__()
        self.pools = [CovpoolLayer]

    def forward(self, x: Tensor) -> Tensor:
        return self.pools[0](self.conv(x))


class APartial(Base):
    def __init__(self) -> None:
        super().__init__()
        self.root = functools.partial(SqrtmLayer, steps=5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        return self.root(x @ x.mT)


class Helper:
    def run(self, x: Tensor) -> Tensor:
        return CovpoolLayer(x)


class AnObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()

    def forward(self, x: Tensor) -> Tensor:
        return self.helper.run(self.conv(x))


def enclosed() -> nn.Module:
    pool = CovpoolLayer

    class Enclosed(Base):
        def forward(self, x: Tensor) -> Tensor:
            return pool(self.conv(x))

    return Enclosed()


class Registered(Base):
    def __init_subclass__(cls) -> None:
        raise AssertionError("a swap made a subclass of a class that registers its subclasses")


def frobenius_newton_schulz(a: Tensor, count: int) -> Tensor:
    """The root of improved bilinear pooling, which divides by another norm."""
    norm = a.square().sum((1, 2), keepdim=True).sqrt()
    y, z, eye = a / norm, torch.eye(a.shape[1]).to(a), torch.eye(a.shape[1]).to(a)
    for _ in range(count):
        p = (3 * eye - z @ y) / 2
        y, z = y @ p, p @ z
    return y * norm.sqrt()


class Frobenius(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        return frobenius_newton_schulz(x @ x.mT, 5)


def covpool_that_counts(x: Tensor) -> Tensor:
    covpool_that_counts.calls += 1  # type: ignore[attr-defined]
    return 2 * CovpoolLayer(x)


covpool_that_counts.calls = 0  # type: ignore[attr-defined]


def covpool_that_keeps(x: Tensor) -> Tensor:
    covpool_that_keeps.last = x  # type: ignore[attr-defined]
    return 2 * CovpoolLayer(x)


def covpool_of_three(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return CovpoolLayer(x * weight + bias)


@torch.no_grad()
def covpool_without_gradient(x: Tensor) -> Tensor:
    return 2 * CovpoolLayer(x)


def covpool_in_place(x: Tensor) -> Tensor:
    return CovpoolLayer(x.sub_(0))


tried: Callable[..., Tensor] = covpool_in_place


class Tried(Base):
    def forward(self, x: Tensor) -> Tensor:
        return tried(self.conv(x))


LEFT: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "compared": (Compared, "published.CovpoolLayer", "compared"),
    "a dict": (FromADict, "published.CovpoolLayer", "the dict POOLS"),
    "a list": (FromAList, "published.CovpoolLayer", "the attribute pools"),
    "a partial": (APartial, "published.SqrtmLayer", "the attribute root"),
    "an object": (AnObject, "published.CovpoolLayer", "the attribute helper"),
    "an enclosing function": (enclosed, "published.CovpoolLayer", "pool, a variable"),
    "registered": (Registered, f"{__name__}.Registered", "own __init_subclass__"),
    "another norm": (Frobenius, f"{__name__}.frobenius_newton_schulz", "computes no covariance"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_reached_is_said(case: str) -> None:
    make, name, reason = LEFT[case]
    torch.manual_seed(0)
    model = make()
    original = copy.deepcopy(model)
    report = swap_functions(model)
    assert not report.replaced, str(report)
    assert [reason in s.reason for s in report.skipped if s.original == name] == [True], str(report)
    assert type(model) is type(original)
    assert model(maps(3)).equal(original(maps(3)))


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "counts": (covpool_that_counts, "calls"),
    "keeps": (covpool_that_keeps, "sets last"),
    "more arguments": (covpool_of_three, "needs 3 arguments"),
    "no gradient": (covpool_without_gradient, ""),
    "in place": (covpool_in_place, ""),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_that_does_more_is_left_alone(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, reason = FUNCTIONS[case]
    monkeypatch.setitem(globals(), "tried", function)
    report = swap_functions(Tried())
    named = f"{__name__}.{function.__name__}"
    assert [reason in s.reason for s in report.skipped if s.original == named] == [True], str(
        report
    )
    assert named not in {done.original for done in report.replaced}


def recover(x: Tensor) -> Tensor:
    raise AssertionError("a function that multiplies no matrices was tried")


class Unrelated(Base):
    def forward(self, x: Tensor) -> Tensor:
        return recover(self.conv(x))


def test_unrelated_functions_are_neither_run_nor_mentioned() -> None:
    report = swap_second_order(Unrelated())
    assert (report.replaced, report.skipped) == ([], [])


def attention(x: Tensor, num_heads: int = 12) -> Tensor:
    """Takes any square maps and a number that is no number of iterations."""
    return torch.matmul(x, x.mT) / num_heads


class Attends(Base):
    def forward(self, x: Tensor) -> Tensor:
        return attention(CovpoolLayer(self.conv(x)))


@pytest.mark.parametrize("swap", [swap_functions, swap_second_order])
def test_any_whole_number_may_be_a_default(swap: Callable[[nn.Module], Any]) -> None:
    report = swap(Attends())
    assert [done.original for done in report.replaced] == ["published.CovpoolLayer"]


def helped(x: Tensor) -> Tensor:
    return 2 * CovpoolLayer(x)


class ComparesTheCaller(Base):
    """The covariance could be replaced, the function that calls it cannot."""

    def forward(self, x: Tensor) -> Tensor:
        pool = helped
        return pool(self.conv(x)) if pool is helped and helped == pool else x


class TwoMethods(Base):
    """One method can be renamed, the other not."""

    def first(self, x: Tensor) -> Tensor:
        return TriuvecLayer(x)

    def second(self, x: Tensor) -> Tensor:
        pool = CovpoolLayer
        return pool(x) if CovpoolLayer == pool else x

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.second(self.conv(x)))


@pytest.mark.parametrize("make", [ComparesTheCaller, TwoMethods])
def test_what_is_refused_is_reported_as_skipped(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    original = copy.deepcopy(model)
    report = swap_functions(model)
    covariance = "published.CovpoolLayer"
    assert covariance not in {done.original for done in report.replaced}, str(report)
    assert [s.reason for s in report.skipped if s.original == covariance] == [
        "its name is set, compared or passed around where it is called"
    ], str(report)
    check_equal(model, original, maps(3))
