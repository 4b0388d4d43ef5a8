"""Autograd of an operator: its two raw operators behind two torch.autograd.Functions.

torch.library's register_autograd would be shorter, but under it a second derivative and a jvp are
silently zero. Functions can have both, and vmap, grad, jacrev, compile and export work with them.
The first derivative comes from the backends; derivatives.py has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import WrappedCtx
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from ccdn_ops.ops import derivatives, raw
from ccdn_ops.ops.direct import Direct, titled
from ccdn_ops.ops.operator import Operator

Raw = Callable[..., Any]


def differentiable(
    record: Operator,
    *,
    extra: int = 0,
    forward: Raw | None = None,
    backward: Raw | None = None,
    traced: Raw | None = None,
) -> Differentiable:
    """A function of the raw operator's arguments that returns its public outputs.

    torch.jit.trace cannot save a call of a Function, and a raw operator that it saved would have no
    gradient. So it gets `traced`, with the same arguments: by default the reference. Second
    derivatives and forward mode differentiate it too.

    The raw operators, by default torch.ops.ccdn.X and X_backward, take and return::

        forward(inputs..., options...) -> outputs..., saved...
        backward(gradients of the outputs..., inputs..., saved..., options...)
            -> gradients of the inputs, as one tensor or several

    where inputs are tensors or None. options are anything else: those of the schema and as many
    `extra` ones as `forward` and `backward` take. Saved tensors have no gradient. With several
    outputs, a gradient that does not exist arrives as None. The gradient that backward returns for
    an input None is dropped.
    """
    operator, outputs = record.name, record.outputs
    options = len(record.option_types) + extra
    raw_forward: Raw = forward or raw.packet(operator)
    raw_backward: Raw = backward or raw.packet(f"{operator}_backward")
    title = titled(operator)

    # torch.jit.trace, a second derivative and forward mode: PyTorch's own functions.
    plain: Raw = traced or record.literal
    states = len(record.returns) - outputs

    class Gradient(torch.autograd.Function):
        """The gradient as a Function, so that it has derivatives itself."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            found = raw_backward(*args)
            return tuple(found) if isinstance(found, list) else found

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            end = len(inputs) - options
            ctx.options, ctx.inputs = inputs[end:], end - states - outputs
            ctx.save_for_backward(*inputs[: end - states])
            ctx.save_for_forward(*inputs[: end - states])
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
            grads, inputs = ctx.saved_tensors[:outputs], ctx.saved_tensors[outputs:]
            upstream = _of_those_given(cotangents, inputs)
            if all(cotangent is None for cotangent in upstream):
                return (None,) * len(ctx.needs_input_grad)
            literal = _with_options(plain, ctx.options)
            by_grads, by_inputs = derivatives.of_gradient(literal, inputs, grads, upstream)
            return (*by_grads, *by_inputs, *(None,) * (states + options))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            grads, inputs = ctx.saved_tensors[:outputs], ctx.saved_tensors[outputs:]
            literal = _with_options(plain, ctx.options)
            along = tangents[: outputs + ctx.inputs]
            found = derivatives.of_gradient_along(literal, inputs, grads, along)
            return found[0] if len(found) == 1 else tuple(found)

    Gradient.__name__ = f"{title}Gradient"
    differentiate = Gradient.apply

    def gradients(grads: Any, inputs: Any, saved: Any, values: tuple[Any, ...]) -> list[Any]:
        """Of the inputs, None for an input None; one of the outputs' gradients is not None."""
        # If no derivative of this can be requested, the operator itself suffices; a compiled
        # graph refuses a second derivative by itself.
        plain = torch.compiler.is_compiling() or not (
            torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        )
        gradient = raw_backward if plain else differentiate
        found = gradient(*grads, *inputs, *saved, *values)
        if isinstance(found, Tensor):
            found = (found,)
        return [grad if x is not None else None for grad, x in zip(found, inputs, strict=False)]

    # Options come first: the number of inputs may vary.
    class Forward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args: Any) -> Any:
            return raw_forward(*args[options:], *args[:options])

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            saved = output[outputs:] if isinstance(output, tuple) else ()
            ctx.options = inputs[:options]
            if saved:  # torch.compile refuses the call for a single output
                ctx.mark_non_differentiable(*saved)
            ctx.save_for_backward(*inputs[options:], *saved)
            if not torch.compiler.is_compiling():
                # The same tensors: under vmap torch keeps one list of their dimensions.
                ctx.save_for_forward(*inputs[options:], *saved)
            # What is saved may be large: no zeros are made for what has no gradient.
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            count, saved = len(ctx.needs_input_grad), ctx.saved_tensors
            if all(grad is None for grad in grads[:outputs]):
                return (None,) * count
            inputs, states = saved[: count - options], saved[count - options :]
            found = gradients(grads[:outputs], inputs, states, ctx.options)
            return (*(None,) * options, *found)

    class ForwardMode(Forward):
        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            literal, tangents = _with_options(plain, ctx.options), tangents[options:]
            found = derivatives.along(literal, ctx.saved_tensors[: len(tangents)], tangents)
            saved: Any = ctx.saved_tensors[len(tangents) :]
            # What is saved has no derivative, which is None; but torch's vmap knows that of none.
            mapped = isinstance(ctx, WrappedCtx)
            found = (*found, *(torch.zeros_like(x) if mapped else None for x in saved))
            return found if len(found) > 1 else found[0]

    # torch.compile traces no Function that defines jvp, so it gets the one without.
    eager: Any = type(title, (ForwardMode,), {})
    direct = Direct(record, gradients, extra)
    return Differentiable(raw_forward, Forward, eager, plain, direct, outputs, options)


def _with_options(plain: Raw, options: tuple[Any, ...]) -> Raw:
    return lambda *inputs: plain(*inputs, *options)


def _of_those_given(
    cotangents: tuple[Tensor | None, ...], inputs: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Those of the inputs that are not None: of others a backend returns any number."""
    return [
        None if x is None else cotangent for cotangent, x in zip(cotangents, inputs, strict=True)
    ]


class Differentiable:
    """What differentiable() makes: an operator that autograd knows."""

    def __init__(
        self,
        raw: Raw,
        traced: Any,
        eager: Any,
        plain: Raw,
        direct: Direct,
        outputs: int,
        options: int,
    ) -> None:
        self.raw, self.traced, self.eager, self.plain = raw, traced, eager, plain
        self.direct = direct
        self.outputs, self.options = outputs, options
        # Function.apply() binds the arguments to forward's signature, which takes longer than a
        # small call. When no transform of torch.func is active, it does no more than this.
        self.apply = super(torch.autograd.Function, eager).apply  # type: ignore[misc]

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        count = len(args) - self.options
        inputs, options = args[:count], args[count:]
        grad = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
        if torch.compiler.is_compiling():
            if _differentiated_in_graph():
                found = self.plain(*args)
            else:
                found = self.traced.apply(*options, *inputs) if grad else self.raw(*args)
        elif torch.jit.is_tracing():
            found = self.plain(*args)
        elif torch._C._are_functorch_transforms_active():
            found = self.eager.apply(*options, *inputs)
        else:
            found = self._directly(inputs, options)
            if found is None:
                if grad or forward_ad._current_level >= 0:
                    found = self.apply(*options, *unwrap_dead_wrappers(inputs))
                else:
                    found = self.raw(*args)
        return (found,) if isinstance(found, Tensor) else tuple(found[: self.outputs])

    def _directly(self, inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
        """A direct call, which makes later ones direct, too; None where it cannot be one."""
        given = self.direct.options
        if any(option is not None for option in options[len(self.direct.record.option_types) :]):
            return None
        return self.direct.learn(inputs, options[:given])


def _differentiated_in_graph() -> bool:
    """Whether a graph that is being made contains a derivative of its own, by torch.func.

    torch.compile traces no Function under such a transform, and gives a raw operator there the
    derivative 0. The transforms are active while the graph is made.
    """
    kinds = [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]
    return forward_ad._current_level >= 0 or any(
        kind != torch._C._functorch.TransformType.Vmap for kind in kinds
    )


# What torch.compiler.assume_constant_result does; that imports all of the compiler, for a second.
_differentiated_in_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]
