"""newton_schulz_roots: schema, fake kernel, and what a backend must provide.

a (B, D, D), taken as (a + a^T) / 2 -> root and inverse (B, D, D) in a's dtype; divisor (B,), the
trace of a or with `norm` its Frobenius norm, and iterates, both in the accumulation dtype. iterates
are matrices of the iteration of the polynomial Z_K in column panels, (B, slots, panels, D,
columns); newton_schulz_plan (newton_schulz_plan.py, roots=True) decides which ones and how many.
Without `save` there are none, and the backward pass recomputes them. A matrix whose divisor is 0
has roots 0 and gradient 0.

A backend provides

  forward(a, iterations, norm, save) -> root, inverse, divisor, iterates
  backward(grad_root, grad_inverse, a, divisor, iterates, iterations, norm, save)
      -> grad_a, symmetric

and gets everything contiguous, with B >= 1. One of the two gradients may be None, which is 0.
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

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def outputs(a: Tensor, iterations: int, norm: bool, save: bool) -> Outputs:
    """Empty outputs of a forward pass, for backends to fill and for the fake kernel."""
    batch, size = a.shape[:2]
    wide = accumulation_dtype(a.dtype)
    saved = nothing_saved(batch)
    if save:  # otherwise no size decides anything, so a graph may hold it open
        plan = newton_schulz_plan(size, None, iterations, a.dtype, save, roots=True)
        saved = plan.saved_shape(batch, size)
    return (
        a.new_empty(a.shape),
        a.new_empty(a.shape),
        a.new_empty(batch, dtype=wide),
        a.new_empty(saved, dtype=wide),
    )


def _grad_empty(
    grad_root: Tensor | None,
    grad_inverse: Tensor | None,
    a: Tensor,
    divisor: Tensor,
    iterates: Tensor,
    iterations: int,
    norm: bool,
    save: bool,
) -> Tensor:
    return a.new_empty(a.shape)


def _roots(a: Tensor, iterations: int, norm: bool, save: bool) -> Outputs:
    if a.shape[0] == 0:
        return outputs(a, iterations, norm, save)
    backend = registry.select("newton_schulz_roots", a, iterations, norm, save)
    with no_autocast(a.device.type):
        return backend.forward(a.contiguous(), iterations, norm, save)


def _roots_backward(
    grad_root: Tensor | None,
    grad_inverse: Tensor | None,
    a: Tensor,
    divisor: Tensor,
    iterates: Tensor,
    iterations: int,
    norm: bool,
    save: bool,
) -> Tensor:
    if a.shape[0] == 0 or (grad_root is None and grad_inverse is None):
        return torch.zeros_like(a).contiguous()
    backend = registry.select("newton_schulz_roots", a, iterations, norm, save)
    grads = (None if grad is None else grad.contiguous() for grad in (grad_root, grad_inverse))
    saved = (t.contiguous() for t in (a, divisor, iterates))
    with no_autocast(a.device.type):
        return backend.backward(*grads, *saved, iterations, norm, save)


def work(a: Tensor, call: Call) -> Work:
    batch, n = a.shape[:2]
    plan = newton_schulz_plan(n, None, call.iterations, a.dtype, call.save, roots=True)
    matrix = a.numel() * a.element_size()
    saved = saved_bytes(plan, a.dtype, batch, n)
    moved = 3 * matrix + saved, 4 * matrix + saved
    algorithm, operations = iteration_work(n, call, plan, roots=True)
    both = batch * operations[0], batch * operations[1]
    return Work(algorithm, moved, both, side=None if call.literal else plan.side)


OPERATOR = define(
    Operator(
        name="newton_schulz_roots",
        first="(B, D, D)",
        schema="(Tensor a, int iterations, bool norm, bool save) -> "
        "(Tensor root, Tensor inverse, Tensor divisor, Tensor iterates)",
        kernel=_roots,
        backward=_roots_backward,
        fake=outputs,
        backward_fake=_grad_empty,
        vmap=folded,
        work=work,
        outputs=2,
        tensors={"b": "BDR"},
        arrange=lambda b: (positive(b),),
        results=["BDD", "BDD"],
        samples=1,
        options={"iterations": 5, "norm": False, "save": True},
        # Odd and even, in float32 and in double; divided by the trace and by the norm.
        calls=lambda x: [
            ([x.new_empty(x.shape[0], x.shape[1], x.shape[1])], (k, k == 6, True)) for k in (5, 6)
        ],
    )
)
