"""How published networks call second-order functions: each of these styles is served.

The shapes are those of fast-MPN-COV, SAN, GSoP-Net, RiemGCP and what was built on them, written
again; the functions are those of published.py.
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Callable
from typing import Any

import published
import pytest
import torch
from published import Covpool, CovpoolLayer, Sqrtm, SqrtmLayer, Triuvec, TriuvecLayer
from published import SqrtmLayer as matrix_root  # noqa: N813 - an alias
from test_swap import check_equal
from test_swap_second_order import maps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ccdn_ops import swap_functions, unswap

D = 6
pytestmark = pytest.mark.usefixtures("verified_once")
alias = TriuvecLayer


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, D, 1)

    def forward(self, x: Tensor) -> Tensor:
        return TriuvecLayer(SqrtmLayer(CovpoolLayer(self.conv(x)), 5)).flatten(1)


class Statements(Base):
    """fast-MPN-COV's ResNet, and the steganalysers that copy it."""

    def forward(self, input: Tensor) -> Tensor:
        output = input
        output = self.conv(output)
        output = published.CovpoolLayer(output)
        output = published.SqrtmLayer(output, 5)
        output = published.TriuvecLayer(output)
        return output.view(output.size(0), -1)


class Methods(Base):
    """MPNCOV's own methods, with the switches of its descendants."""

    method = "MPNCOV"

    def _cov_pool(self, x: Tensor) -> Tensor:
        return Covpool.apply(x)

    def _sqrtm(self, x: Tensor) -> Tensor:
        if self.method == "none":
            return x
        return Sqrtm.apply(x, 5)

    def _triuvec(self, x: Tensor) -> Tensor:
        return Triuvec.apply(x)

    def forward(self, x: Tensor) -> Tensor:
        return self._triuvec(self._sqrtm(self._cov_pool(self.conv(x)))).squeeze(2)


class ClassAttributes(Base):
    """imgclsmob keeps them on the instance; others on the class."""

    pool = staticmethod(CovpoolLayer)
    root = Sqrtm.apply

    def forward(self, x: Tensor) -> Tensor:
        return alias(self.root(self.pool(self.conv(x)), 5)).flatten(1)


class Defaults(Base):
    def pooled(self, x: Tensor, pool: Any = CovpoolLayer, *, root: Any = matrix_root) -> Tensor:
        return root(pool(x), steps=5)

    def forward(self, x: Tensor) -> Tensor:
        return TriuvecLayer(self.pooled(self.conv(x)))


class Inherited(Base):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class InheritedTwice(Inherited, ABC):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + CovpoolLayer(self.conv(x)).sum()


class CalledOnTheClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * Base.forward(self, x)


class Operations:
    @staticmethod
    def covpool(x: Tensor) -> Tensor:
        return CovpoolLayer(x)


class OnAClass(Base):
    def forward(self, x: Tensor) -> Tensor:
        return Operations.covpool(self.conv(x)).flatten(1)


class Looped(Base):
    """One covariance for each cluster."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out = torch.zeros(len(x), 2, D * (D + 1) // 2, dtype=x.dtype)
        for k in range(2):
            part = published.CovpoolLayer((k + 1) * x)
            part = published.SqrtmLayer(part, 3)
            out[:, k] = published.TriuvecLayer(part).reshape(len(x), -1)
        return out


def cov_feature(x: Tensor) -> Tensor:
    """GSoP's position attention: the covariance of positions over channels."""
    flat = x.flatten(2)
    d, n = flat.shape[1:]
    centring = torch.eye(d, dtype=x.dtype) / n - torch.ones(d, d, dtype=x.dtype) / n**2
    return flat.mT @ centring @ flat


class GSoP(Base):
    def __init__(self) -> None:
        super().__init__()
        self.row_bn = nn.BatchNorm2d(D)
        self.row_conv = nn.Conv2d(D, 4 * D, (D, 1), groups=D)
        self.expand = nn.Conv2d(4 * D, D, 1)

    def chan_att(self, out: Tensor) -> Tensor:
        out = published.CovpoolLayer(out.relu())
        out = out.view(out.size(0), out.size(1), out.size(2), 1).contiguous()
        return torch.sigmoid(self.expand(self.row_conv(self.row_bn(out))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.chan_att(x) + cov_feature(x).mean((1, 2))[:, None, None, None]


class Averaged(Base):
    """SAN's arithmetic inside a larger block, and a network that takes no root."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        cov_mat = published.CovpoolLayer(x)
        cov_mat_sqrt = published.SqrtmLayer(cov_mat, 5)
        scale = torch.mean(cov_mat_sqrt, 1).view(x.shape[0], D, 1, 1)
        return x * scale + torch.mean(cov_mat, 1).view(x.shape[0], D, 1, 1)


class CrossCovariance(Base):
    """The root of a product of two maps, which is not symmetric: the function itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        product = torch.tanh(x @ x.roll(1, 1).mT / x.shape[2])
        return published.SqrtmLayer(torch.eye(D).to(x) + 0.05 * product, 5)


class Checkpointed(Base):
    def forward(self, x: Tensor) -> Tensor:
        a = checkpoint(CovpoolLayer, self.conv(x), use_reentrant=False)
        return SqrtmLayer(a, 5)


class Named(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function(CovpoolLayer.__name__):
            return CovpoolLayer(self.conv(x))


LAYER = ("published.CovpoolLayer", "published.SqrtmLayer", "published.TriuvecLayer")
SERVED: dict[str, tuple[type[nn.Module], set[str]]] = {
    "statements": (Statements, {*LAYER}),
    "methods": (Methods, {f"published.{n}.apply" for n in ("Covpool", "Sqrtm", "Triuvec")}),
    "class attributes": (ClassAttributes, {LAYER[0], "published.Sqrtm.apply", LAYER[2]}),
    "default arguments": (Defaults, {*LAYER}),
    "super": (Inherited, {*LAYER}),
    "super twice": (InheritedTwice, {*LAYER}),
    "called on the class": (CalledOnTheClass, {*LAYER}),
    "on a class": (OnAClass, {f"{__name__}.Operations.covpool"}),
    "a loop": (Looped, {*LAYER}),
    "GSoP": (GSoP, {LAYER[0]}),
    "averaged": (Averaged, {*LAYER[:2]}),
    "a cross-covariance": (CrossCovariance, {LAYER[1]}),
    "checkpoint": (Checkpointed, {*LAYER[:2]}),
    "its name": (Named, {LAYER[0]}),
}


@pytest.mark.parametrize("case", SERVED)
def test_a_published_style_is_served(case: str) -> None:
    cls, functions = SERVED[case]
    torch.manual_seed(0)
    model = cls().double()
    original = copy.deepcopy(model)
    report = swap_functions(model)
    assert {done.original for done in report.replaced} == functions, str(report)
    assert {left.original for left in report.skipped} <= {f"{__name__}.cov_feature"}, str(report)
    assert isinstance(model, cls)
    check_equal(model, original, maps(3, 4, 4, torch.float64), 1e-8)
    assert unswap(model) == [""]
    assert type(model) is cls


def plain_covpool(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    return flat @ flat.mT / flat.shape[2]


class Plain(Base):
    def forward(self, x: Tensor) -> Tensor:
        return plain_covpool(self.conv(x)).flatten(1)


USES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "torch.fx.symbolic_trace": lambda m, _: torch.fx.symbolic_trace(m),
    "torch.jit.script": lambda m, _: torch.jit.script(m),
    "torch.jit.trace": torch.jit.trace,
    "torch.export": lambda m, x: torch.export.export(m, (x,)).module(),
    "torch.export, strict": lambda m, x: torch.export.export(m, (x,), strict=True).module(),
}


@pytest.mark.filterwarnings("ignore")  # torch's own: of TorchScript, and of tracing
@pytest.mark.parametrize("use", USES)
def test_a_model_of_replaced_functions_is_traced(use: str) -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), maps(3)
    original = copy.deepcopy(model)
    assert len(swap_functions(model).replaced) == 1
    torch.testing.assert_close(USES[use](model, x)(x), original(x))
    assert unswap(model) == [""]
    torch.testing.assert_close(USES[use](model, x)(x), original(x))
