"""What a replaced block is: the same object under another class, which reads a layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ccdn_ops.nn import SecondOrderBranch, second_order_attention, squeeze_excite
from ccdn_ops.ops.isqrt_cov import isqrt_cov
from ccdn_ops.ops.second_order_squeeze import second_order_squeeze

# A child by its name in the block ("fc1", "conv_du.0"), or a function, for a block that calls one.
Step = str | Callable[[Tensor], Tensor]

Output = Literal["triu", "mean", "matrix", "flat"]


@dataclass(frozen=True)
class AttentionLayout:
    """Channel attention: x * gate(layers(squeeze of x)).

    Args:
        layers: the steps between the squeeze and the gate, in the order of their use.
        gate: the steps of the gate; more than one is unusual.
        squeeze: the mean over the positions, or the covariance squeeze (eq. 2 of CCDN).
        iterations: Newton-Schulz iterations of the covariance squeeze.
        window: the covariance is that of the central window of a larger map; None: of all.
    """

    layers: tuple[Step, ...]
    gate: tuple[Step, ...]
    squeeze: Literal["mean", "covariance"] = "mean"
    iterations: int = 5
    window: int | None = None

    def __str__(self) -> str:
        of: str = self.squeeze
        if of == "covariance":
            of += f", {self.iterations} iterations"
            of += f", central {self.window} positions" if self.window else ""
        return f"attention, {of}, {_spoken(self.layers)}, gate {_spoken(self.gate)}"


@dataclass(frozen=True)
class PoolingLayout:
    """The square root of the covariance after some children, the dimension reduction.

    Args:
        before: the children that x goes through first.
        output: "triu" (B, D (D + 1) / 2), "mean" (B, D), "matrix" (B, D, D), "flat" (B, D * D).
        iterations: Newton-Schulz iterations.
        trailing: how many dimensions of size 1 the output has after those.
    """

    before: tuple[str, ...] = ()
    output: Output = "triu"
    iterations: int = 5
    trailing: int = 0

    def __str__(self) -> str:
        before = f" after {_spoken(self.before)}" if self.before else ""
        return f"iSQRT-COV{before}, {self.iterations} iterations, output {self.output}"


Layout = AttentionLayout | PoolingLayout


class Unfit(Exception):  # noqa: N818 - no error: the reason why a block is left as it is
    """A block is not, or cannot be, what it was taken for; the message says why."""


def convert(module: nn.Module, layout: Layout) -> None:
    """Makes a module compute its layout with the operators.

    Only its class changes. That replaces it everywhere at once, as the root of a model, in several
    parents, in lists and closures that no search would find, and leaves Parameters, hooks, mode and
    every name of its state_dict as they are.
    """
    cls: type[nn.Module]
    if isinstance(layout, PoolingLayout):
        cls = SwappedISqrtCovPool
    elif layout.squeeze == "mean":
        cls = SwappedSqueezeExcite
    else:
        cls = SwappedSecondOrderAttention
    try:
        module.__class__ = cls
    except TypeError as error:
        raise Unfit(f"its class cannot be changed: {error}") from error
    module._swap_layout = layout  # type: ignore[assignment]


class Swapped(nn.Module):
    """A replaced block; `_swap_layout` says what its children are for."""

    def _steps(self, names: tuple[Step, ...]) -> list[Callable[[Tensor], Tensor]]:
        return [_descendant(self, step) if isinstance(step, str) else step for step in names]

    def extra_repr(self) -> str:
        return str(self._swap_layout)


class SwappedSqueezeExcite(Swapped):
    """ccdn_ops.nn.SqueezeExcite over the children of the block that it replaces."""

    _swap_layout: AttentionLayout

    def add_second_order(self, iterations: int) -> SecondOrderBranch:
        """Adds the child `second`, whose logits are zero until it is trained."""
        steps = self._steps(self._swap_layout.layers)
        weights = [s.weight for s in steps if isinstance(s, (nn.Conv2d, nn.Linear))]
        channels = weights[-1].shape[0]
        # One layer has no bottleneck whose width could be taken over.
        hidden = weights[0].shape[0] if len(weights) > 1 else max(channels // 16, 1)
        self.second = SecondOrderBranch(channels, hidden, weights[0].device, weights[0].dtype)
        self.second.train(self.training)
        self._swap_layout = dataclasses.replace(self._swap_layout, iterations=iterations)
        return self.second

    def forward(self, x: Tensor) -> Tensor:
        layout = self._swap_layout
        second = self._modules.get("second")
        layers, gate = self._steps(layout.layers), self._steps(layout.gate)
        return squeeze_excite(x, layers, gate, second, layout.iterations)


class SwappedSecondOrderAttention(Swapped):
    """ccdn_ops.nn.SecondOrderAttention over the children of the block that it replaces."""

    _swap_layout: AttentionLayout

    def forward(self, x: Tensor) -> Tensor:
        layout = self._swap_layout
        layers, gate = self._steps(layout.layers), self._steps(layout.gate)
        return second_order_attention(x, layers, gate, layout.iterations, layout.window)


class SwappedISqrtCovPool(Swapped):
    """ccdn_ops.nn.ISqrtCovPool after the dimension reduction of the head that it replaces."""

    _swap_layout: PoolingLayout

    def forward(self, x: Tensor) -> Tensor:
        layout = self._swap_layout
        for step in self._steps(layout.before):
            x = step(x)
        if layout.output == "mean":
            pooled = second_order_squeeze(x, layout.iterations)
        else:
            pooled = isqrt_cov(x, layout.iterations, triu=layout.output == "triu")
        if layout.output == "flat":
            pooled = pooled.flatten(1)
        return pooled.view(*pooled.shape, *(1,) * layout.trailing)


def _descendant(module: nn.Module, name: str) -> nn.Module:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _spoken(steps: tuple[Step, ...]) -> str:
    return " > ".join(s if isinstance(s, str) else getattr(s, "__name__", repr(s)) for s in steps)
