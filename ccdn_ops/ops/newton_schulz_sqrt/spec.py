"""newton_schulz_sqrt: schema, fake kernel, and what a backend must provide.

a (B, D, D), taken as (a + a^T) / 2 -> root (B, D, D) in a's dtype; trace (B,) of a and iterates,
both in the accumulation dtype (float64 for float64, else float32). iterates are matrices of the
iteration in column panels, (B, slots, panels, D, columns); newton_schulz_plan
(newton_schulz_plan.py) decides which ones and how many. Without `save` there are none, and the
backward pass recomputes them. A matrix of trace 0 has root 0 and gradient 0.

A backend provides

  forward(a, iterations, save) -> root, trace, iterates
  backward(grad, a, trace, iterates, iterations, save) -> grad_a, symmetric

and gets everything contiguous, with B >= 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.newton_schulz_plan import newton_schulz_plan, nothing_saved
from ccdn_ops.newton_schulz_work import iteration_work, saved_bytes
from ccdn_ops.ops.operator import Operator, define, positive
from ccdn_ops.ops.raw import folded
from ccdn_ops.precision import accumulation_dtype, no_autocast
from ccdn_ops.work import Call, Work


def outputs(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty outputs of a forward pass, for backends to fill and for the fake kernel."""
    batch, size = a.shape[:2]
    wide = accumulation_dtype(a.dtype)
    saved = nothing_saved(batch)
    if save:  # otherwise no size decides anything, so a graph may hold it open
        saved = newton_schulz_plan(size, None, iterations, a.dtype, save).saved_shape(batch, size)
    return (
        a.new_empty(a.shape),
        a.new_empty(batch, dtype=wide),
        a.new_empty(saved, dtype=wide),
    )


def _grad_empty(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    return a.new_empty(a.shape)


def _sqrt(a: Tensor, iterations: int, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    if a.shape[0] == 0:
        return outputs(a, iterations, save)
    backend = registry.select("newton_schulz_sqrt", a, iterations, save)
    with no_autocast(a.device.type):
        return backend.forward(a.contiguous(), iterations, save)


def _sqrt_backward(
    grad: Tensor, a: Tensor, trace: Tensor, iterates: Tensor, iterations: int, save: bool
) -> Tensor:
    if a.shape[0] == 0:
        return torch.empty_like(a).contiguous()
    backend = registry.select("newton_schulz_sqrt", a, iterations, save)
    tensors = (t.contiguous() for t in (grad, a, trace, iterates))
    with no_autocast(a.device.type):
        return backend.backward(*tensors, iterations, save)


def work(a: Tensor, call: Call) -> Work:
    batch, n = a.shape[:2]
    plan = newton_schulz_plan(n, None, call.iterations, a.dtype, call.save)
    matrix = a.numel() * a.element_size()
    saved = saved_bytes(plan, a.dtype, batch, n)
    moved = 2 * matrix + saved, 3 * matrix + saved
    algorithm, operations = iteration_work(n, call, plan)
    both = batch * operations[0], batch * operations[1]
    return Work(algorithm, moved, both, side=plan.side)


OPERATOR = define(
    Operator(
        name="newton_schulz_sqrt",
        first="(B, D, D)",
        schema="(Tensor a, int iterations, bool save) -> "
        "(Tensor root, Tensor trace, Tensor iterates)",
        kernel=_sqrt,
        backward=_sqrt_backward,
        fake=outputs,
        backward_fake=_grad_empty,
        vmap=folded,
        work=work,
        tensors={"b": "BDR"},
        arrange=lambda b: (positive(b),),
        results=["BDD"],
        samples=1,
        options={"iterations": 5, "save": True},
        # Odd and even, in float32 and in double.
        calls=lambda x: [
            ([x.new_empty(x.shape[0], x.shape[1], x.shape[1])], (k, True)) for k in (5, 6)
        ],
    )
)
