"""dual_squeeze: both channel squeezes of a feature map in one pass."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import torch
from torch import Tensor

import ccdn_ops.schemas  # noqa: F401  (defines torch.ops.ccdn)
from ccdn_ops.ops.checks import check_iterations, check_map


def dual_squeeze(x: Tensor, iterations: int = 5) -> tuple[Tensor, Tensor]:
    """The first-order and the second-order squeeze of every channel (eqs. 1 and 2).

    x (B, D, H, W) or (B, D, N), float32, float64, bfloat16 or float16, in any memory format ->
    (first, second), each (B, D) in x's dtype. first is the mean over the positions; second is the
    mean over the columns of the square root of the covariance, by `iterations` (1 to 10) coupled
    Newton-Schulz steps between trace normalisation and compensation.

    16-bit inputs are accumulated in float32. A sample without variance, also one position alone,
    has second = 0 and, for it, zero gradient. Samples do not influence each other.

    Raises TypeError for another dtype or a non-int `iterations`, ValueError for another rank, empty
    D or N and `iterations` out of range. Differentiable once, in reverse: a second derivative and
    forward mode raise NotImplementedError.
    """
    check_map("dual_squeeze", "x", x)
    check_iterations("dual_squeeze", iterations)
    function = _DualSqueeze if torch.compiler.is_compiling() else _EagerDualSqueeze
    first, second, *_ = function.apply(x, iterations)
    return first, second


class _DualSqueeze(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return torch.ops.ccdn.dual_squeeze(x, iterations)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, ctx.iterations = inputs
        _, _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.save_for_backward(x, *saved)
        # gram may be large: no zeros are made for what has no gradient.
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        first, second, *_ = grads
        if first is None and second is None:
            return None, None
        if first is None:
            assert second is not None
            first = torch.zeros_like(second)
        if second is None:
            second = torch.zeros_like(first)
        compiling = torch.compiler.is_compiling()
        function = _DualSqueezeBackward if compiling else _EagerDualSqueezeBackward
        return function.apply(first, second, *ctx.saved_tensors, ctx.iterations), None


class _DualSqueezeBackward(torch.autograd.Function):
    """The gradient as a Function of its own, so that its derivative raises instead of being 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_first: Tensor,
        grad_second: Tensor,
        x: Tensor,
        mean: Tensor,
        trace: Tensor,
        gram: Tensor,
        iterations: int,
    ) -> Tensor:
        return torch.ops.ccdn.dual_squeeze_backward(
            grad_first, grad_second, x, mean, trace, gram, iterations
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(
            "ccdn_ops.dual_squeeze has no second derivative (double backward); "
            "ccdn_ops.reference.dual_squeeze is differentiable any number of times"
        )


class _NoForwardMode(torch.autograd.Function):
    """Names the operator where torch would only say that some Function has no jvp."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> NoReturn:
        raise NotImplementedError(
            "ccdn_ops.dual_squeeze has no forward-mode derivative (jvp, jacfwd, hessian); "
            "reverse mode (backward, grad, vjp, jacrev) works"
        )


class _EagerDualSqueeze(_NoForwardMode, _DualSqueeze):
    """torch.compile traces no Function that defines jvp, so it gets the one without."""


class _EagerDualSqueezeBackward(_NoForwardMode, _DualSqueezeBackward):
    pass


# Function.apply() inspects the signature of forward at every call, unless it finds it here: that
# is a good part of the time of a small call.
for _function in (_DualSqueeze, _DualSqueezeBackward):
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore
