"""Swapping SOCA layers and iSQRT-COV heads, written as their papers' code has them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import published
import pytest
import torch
from harness import err, features
from published import MPNCOV, SOCA, CovpoolLayer, SqrtmLayer, TriuvecLayer
from se_blocks import SEModule
from test_swap import check_equal
from torch import Tensor, nn

import ccdn_ops
from ccdn_ops import swap_second_order, swap_squeeze_excite
from ccdn_ops.swap import AttentionLayout, PoolingLayout

D = 16
pytestmark = pytest.mark.usefixtures("verified_once")


def maps(channels: int = D, height: int = 5, width: int = 6, dtype: Any = torch.float32) -> Tensor:
    x = features("dominant", 2, channels, height * width, dtype=dtype)
    return x.unflatten(2, (height, width))


def test_the_published_backward_pass_is_a_gradient() -> None:
    """The stand-in's own: what it is compared with must be right."""
    x = maps(5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: SqrtmLayer(CovpoolLayer(x), 4).triu(), x)
    assert torch.autograd.gradcheck(lambda x: TriuvecLayer(CovpoolLayer(x)), x)


class Group(nn.Module):
    """Contains a layer under that name; it is not one itself."""

    def __init__(self, conv: nn.Module, soca: nn.Module) -> None:
        super().__init__()
        self.conv, self.soca = conv, soca

    def forward(self, x: Tensor) -> Tensor:
        return self.soca(self.conv(x)).relu()


@pytest.mark.parametrize(("channels", "reduction"), [(16, 4), (8, 8), (64, 16)])
def test_soca(channels: int, reduction: int) -> None:
    torch.manual_seed(0)
    model = Group(nn.Conv2d(3, channels, 3), SOCA(channels, reduction))
    original = copy.deepcopy(model)
    names = list(model.state_dict())
    parameters = list(model.parameters())
    report = swap_second_order(model)
    assert len(report.replaced) == 1, str(report)
    assert not report.skipped
    layout = report.replaced[0].layout
    assert isinstance(layout, AttentionLayout)
    assert (layout.squeeze, layout.iterations, layout.window) == ("covariance", 5, 1000)
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    check_equal(model, original, maps(3, 9, 7))
    check_equal(model.double(), original.double(), maps(3, 9, 7, torch.float64), 1e-9)


@pytest.mark.parametrize(("height", "width"), [(2, 1200), (1001, 2), (2, 1000)])
def test_the_central_window_of_soca(height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = SOCA(8, 4)
    original = copy.deepcopy(layer)
    swap_second_order(layer)
    x = maps(8, height, width) * torch.linspace(0.1, 5, width)
    assert err(layer(x).detach(), original(x).detach()) < 1e-5
    whole = ccdn_ops.nn.SecondOrderAttention(8, 4, window=None)
    whole.load_state_dict(layer.state_dict())
    assert (err(whole(x).detach(), original(x).detach()) > 1e-5) == (max(height, width) > 1000)


class Unwindowed(SOCA):
    """As the paper has it, without the constant of its code, and with another root."""

    iterations = 3

    def forward(self, x: Tensor) -> Tensor:
        root = SqrtmLayer(CovpoolLayer(x), self.iterations)
        return x * self.conv_du(root.mean(2)[..., None, None])


class OtherWindow(SOCA):
    def forward(self, x: Tensor) -> Tensor:
        root = SqrtmLayer(CovpoolLayer(x[..., :500]), 5)
        return x * self.conv_du(root.mean(2)[..., None, None])


class PooledFirst(SOCA):
    def forward(self, x: Tensor) -> Tensor:
        root = SqrtmLayer(CovpoolLayer(self.max_pool(x)), 5)
        return x * self.conv_du(root.mean(2)[..., None, None])


class Unbiased(SOCA):
    """Divides by N - 1."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[2] * x.shape[3]
        root = SqrtmLayer(CovpoolLayer(x) * n / (n - 1), 5)
        return x * self.conv_du(root.mean(2)[..., None, None])


def test_soca_without_a_window_and_the_number_it_states() -> None:
    torch.manual_seed(0)
    layer = Unwindowed(D, 4)
    original = copy.deepcopy(layer)
    report = swap_second_order(layer)
    layout = report.replaced[0].layout
    assert isinstance(layout, AttentionLayout)
    assert (layout.iterations, layout.window) == (3, None)
    check_equal(layer, original, maps())


@pytest.mark.parametrize("cls", [OtherWindow, PooledFirst, Unbiased])
def test_other_second_order_attention_is_left_alone(cls: type[nn.Module]) -> None:
    """No block computes that. The functions that its forward calls compute what they always do, so
    they are replaced where they stand, with whatever window, pooling or factor is around them."""
    torch.manual_seed(0)
    layer = cls(D, 4)
    original = copy.deepcopy(layer)
    report = swap_second_order(layer, functions=False)
    assert not report.replaced
    assert len(report.skipped) == 1
    assert type(layer) is cls
    report = swap_second_order(layer)
    assert {d.original for d in report.replaced} == {
        "published.CovpoolLayer",
        "published.SqrtmLayer",
    }
    assert not report.blocks
    assert not report.skipped
    check_equal(layer, original, maps())
    ccdn_ops.unswap(layer)
    assert type(layer) is cls


@pytest.mark.parametrize("iterations", [2, 3, 5, 7])
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("reduced", [True, False])
def test_isqrt_cov_head(iterations: int, vector: bool, reduced: bool) -> None:
    torch.manual_seed(0)
    head = MPNCOV(iterations, True, vector, 24, D if reduced else None)
    width = (D * (D + 1) // 2 if vector else D * D) if reduced else 24 * 25 // 2 if vector else 576
    model = nn.Sequential(nn.Conv2d(3, 24, 3), head, nn.Flatten(), nn.Linear(width, 10))
    original = copy.deepcopy(model)
    names = list(model.state_dict())
    report = swap_second_order(model)
    assert len(report.replaced) == 1, str(report)
    layout = report.replaced[0].layout
    assert isinstance(layout, PoolingLayout)
    assert layout == PoolingLayout(
        ("conv_dr_block",) if reduced else (),
        "triu" if vector else "matrix",
        iterations,
        1 if vector else 0,  # the published triangle is (B, D (D + 1) / 2, 1)
    )
    assert list(model.state_dict()) == names
    x = maps(3, 9, 8)
    assert model[:2](x).shape == original[:2](x).shape
    check_equal(model, original, x, 2e-5)
    check_equal(model.double(), original.double(), maps(3, 9, 8, torch.float64), 1e-8)
    check_equal(model.eval(), original.eval(), maps(3, 9, 8, torch.float64), 1e-8)


class Ported(nn.Module):
    """A port: functions as attributes, the number of iterations in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.cov_pool = published.Covpool.apply
        self.sqrt = published.Sqrtm.apply

    def forward(self, x: Tensor) -> Tensor:
        return self.sqrt(self.cov_pool(x), 4).mean(2)


def test_the_number_of_iterations_is_found() -> None:
    model = Ported()
    original = copy.deepcopy(model)
    report = swap_second_order(model)
    assert report.replaced[0].layout == PoolingLayout((), "mean", 4)
    check_equal(model, original, maps())


class Network(nn.Module):
    """Calls the functions inside a larger forward, as the paper's own ResNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, D, 3), nn.Conv2d(D, D, 1)
        self.se = SEModule(channels=D)
        self.fc = nn.Linear(D * (D + 1) // 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(self.conv2(self.conv1(x)))
        x = published.TriuvecLayer(published.SqrtmLayer(published.CovpoolLayer(x), 5))
        return self.fc(x.flatten(1))


def test_functions_in_a_network() -> None:
    """The paper's own head has no module; its functions are replaced unless one asks for blocks."""
    torch.manual_seed(0)
    model = Network()
    original = copy.deepcopy(model)
    report = swap_second_order(model, functions=False)
    assert not report.replaced
    assert [s.names for s in report.skipped] == [("",)]
    assert "functions=True" in report.skipped[0].reason
    report = swap_second_order(model)
    assert {done.original: done.names for done in report.functions} == {
        f"published.{name}": ("",) for name in ("CovpoolLayer", "SqrtmLayer", "TriuvecLayer")
    }
    assert report.functions == report.replaced
    assert not report.skipped
    check_equal(model, original, maps(3, 9, 8))
    assert len(swap_squeeze_excite(model).replaced) == 1  # its blocks are still found
    check_equal(model, original, maps(3, 9, 8))
    assert ccdn_ops.unswap(model) == ["", "se"]
    assert type(model) is Network


# The reason why no block replaces it, and the functions that are replaced in it all the same: each
# computes what it is replaced by, whatever the head makes of it.
BROKEN: dict[str, tuple[Callable[[], nn.Module], str, set[str]]] = {
    "no root": (
        lambda: MPNCOV(5, is_sqrt=False),
        "is_sqrt=False",
        {"CovpoolLayer", "SqrtmLayer", "TriuvecLayer"},
    ),
    "a number that comes out wrong": (
        lambda: MPNCOV(1),
        "after 1 iterations",
        {"CovpoolLayer", "SqrtmLayer", "TriuvecLayer"},
    ),
    "few channels": (
        lambda: MPNCOV(5, input_dim=8, dimension_reduction=1),
        "no kind of head",
        {"CovpoolLayer", "SqrtmLayer", "TriuvecLayer"},
    ),
    "patched": (lambda: _patched(), "replaced on the instance", set()),
}


def _patched() -> nn.Module:
    head = MPNCOV()
    head.forward = lambda x: x  # type: ignore[method-assign]
    return head


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_certain_is_left_alone_and_said(case: str) -> None:
    make, reason, functions = BROKEN[case]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    original = copy.deepcopy(model)
    report = swap_second_order(model, functions=False)
    assert not report.replaced
    assert reason in report.skipped[0].reason
    assert type(model[0]) is MPNCOV
    report = swap_second_order(model)
    assert {done.original for done in report.replaced} == {f"published.{f}" for f in functions}
    assert [reason in left.reason for left in report.skipped] == ([] if functions else [True])
    check_equal(model, original, maps(8), 2e-5)
    ccdn_ops.unswap(model)
    assert type(model[0]) is MPNCOV


def test_a_layout_that_the_caller_knows() -> None:
    class Descriptor(nn.Module):
        """Nothing in its names says what it does."""

        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2d(24, D, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.proj(x).flatten(2)
            y = y - y.mean(2, keepdim=True)
            a = y @ y.mT / y.shape[2]
            trace = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
            b = z = torch.eye(D)
            b = a / trace
            for _ in range(3):
                p = (3 * torch.eye(D) - z @ b) / 2
                b, z = b @ p, p @ z
            return (b * trace.sqrt()).flatten(1)

    torch.manual_seed(0)
    model = nn.Sequential(Descriptor())
    original = copy.deepcopy(model)
    report = swap_second_order(model)
    assert (report.replaced, report.skipped) == ([], [])  # nor does it call a function of its own
    wrong = PoolingLayout(before=("proj",), output="flat", iterations=5)
    report = swap_second_order(model, layouts={Descriptor: wrong})
    assert "differs" in report.skipped[0].reason
    right = PoolingLayout(before=("proj",), output="flat", iterations=3)
    report = swap_second_order(model, layouts={Descriptor: right})
    assert len(report.replaced) == 1
    check_equal(model, original, maps(24), 2e-5)


def test_first_order_blocks_are_not_mentioned() -> None:
    model = nn.Sequential(SEModule(), nn.Conv2d(8, 8, 1), nn.TransformerEncoderLayer(8, 2, 16))
    report = swap_second_order(model)
    assert (report.replaced, report.skipped) == ([], [])


def test_soca_is_not_squeeze_and_excitation() -> None:
    layer = SOCA(D, 4)
    report = swap_squeeze_excite(layer)
    assert not report.replaced
    assert type(layer) is SOCA


def test_training_continues_after_a_swap() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, D, 3), SOCA(D, 4), MPNCOV(5), nn.Flatten(), nn.Linear(136, 2)
    )
    original = copy.deepcopy(model)
    optimisers = [torch.optim.SGD(m.parameters(), 0.05) for m in (model, original)]
    swap_second_order(model)
    x, target = maps(3, 9, 8), torch.tensor([0, 1])
    for _ in range(5):
        for m, optimiser in zip((model, original), optimisers, strict=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(m(x), target).backward()
            optimiser.step()
    for a, b in zip(model.parameters(), original.parameters(), strict=True):
        assert err(a.detach(), b.detach()) < 1e-4
