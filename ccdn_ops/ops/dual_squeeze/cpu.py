"""dual_squeeze on the CPU, through csrc/cpu/ops/dual_squeeze.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.backends.cpu.scratch import scratch_memory
from ccdn_ops.plans import DualSqueezePlan, dual_squeeze_plan
from ccdn_ops.precision import DTYPE_NAMES, accumulation_dtype


def _plan(x: Tensor, iterations: int) -> DualSqueezePlan:
    _, channels, positions = x.shape
    return dual_squeeze_plan(channels, positions, iterations, DTYPE_NAMES[x.dtype], "cpu")


def _saved_side(x: Tensor, plan: DualSqueezePlan) -> int:
    _, channels, positions = x.shape
    return (channels if plan.side == "channels" else positions) if plan.saves_gram else 0


def _forward(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    plan = _plan(x, iterations)
    batch, channels, _ = x.shape
    n = _saved_side(x, plan)
    wide = accumulation_dtype(x.dtype)
    first, second = x.new_empty(batch, channels), x.new_empty(batch, channels)
    mean, trace = x.new_empty(batch, channels, dtype=wide), x.new_empty(batch, dtype=wide)
    gram = x.new_empty(batch, n, n, dtype=wide)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.dual_squeeze_shape(x, plan)
    scratch = scratch_memory(module.dual_squeeze_workspace_cpu(shape, workers, False))
    native.launch(
        "dual_squeeze",
        module.dual_squeeze_forward_cpu,
        shape,
        *(x, first, second, mean, trace, gram),
        scratch,
        workers,
    )
    return first, second, mean, trace, gram


def _backward(
    grad_first: Tensor,
    grad_second: Tensor,
    x: Tensor,
    mean: Tensor,
    trace: Tensor,
    gram: Tensor,
    iterations: int,
) -> Tensor:
    plan = _plan(x, iterations)
    grad = torch.empty_like(x)
    x = native.like_gradient(x, grad)
    module, workers = native.require(), torch.get_num_threads()
    shape = structs.dual_squeeze_shape(x, plan)
    scratch = scratch_memory(module.dual_squeeze_workspace_cpu(shape, workers, True))
    native.launch(
        "dual_squeeze_backward",
        module.dual_squeeze_backward_cpu,
        shape,
        *(grad_first, grad_second, x, mean.contiguous(), trace.contiguous(), gram.contiguous()),
        grad,
        scratch,
        workers,
    )
    return grad


def _bind(x: Tensor, iterations: int) -> registry.Bound | None:
    flat = binding.flat_view(x)
    if flat is None:
        return None
    plan, (batch, channels, _) = _plan(flat, iterations), flat.shape
    n = _saved_side(flat, plan)
    states = [(batch, channels), (batch,), (batch, n, n)]
    saving = binding.Saving(structs.dual_squeeze_shape(flat, plan), states, plan)
    return binding.of_one_tensor("dual_squeeze", x, [(batch, channels)] * 2, saving)


register("dual_squeeze", _forward, _backward, _bind)
