"""multi_excite on the CPU, through csrc/cpu/ops/multi_excite.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.precision import accumulation_dtype


def _shape(x: Tensor, line_stride: int, gates: Tensor) -> Any:
    return structs.multi_excite_shape(x, line_stride, gates.dtype, gates.shape[1])


def _forward(x: Tensor, gates: Tensor) -> Tensor:
    out = empty_maps(x, *gates.shape[:2])
    x, line_stride = in_lines(x)
    shape = _shape(x, line_stride, gates)
    forward = native.require().multi_excite_forward_cpu
    native.launch("multi_excite", forward, shape, x, gates, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    grad_x, grad_gates = empty_maps(x, x.shape[0]), torch.empty_like(gates)
    grad_out = in_order_of(x, grad_out)
    x, line_stride = in_lines(x)
    shape = _shape(x, line_stride, gates)
    backward = native.require().multi_excite_backward_cpu
    native.launch("multi_excite_backward", backward, shape, grad_out, x, gates, grad_x, grad_gates)
    return grad_x, grad_gates


def _bind(x: Tensor, gates: Tensor) -> registry.Bound | None:
    lines, line_stride = in_lines(x)
    if gates.dtype not in (x.dtype, accumulation_dtype(x.dtype)):
        return None
    if lines is not x or not gates.is_contiguous():
        return None
    like = x.new_empty_strided(x.shape, x.stride(), device="meta")
    return binding.bound(
        "multi_excite",
        (x, gates),
        [empty_maps(like, *gates.shape[:2])],
        binding.Saving(_shape(x, line_stride, gates), []),
        gradients=[empty_maps(like, x.shape[0]), torch.empty_like(gates, device="meta")],
    )


register("multi_excite", _forward, _backward, _bind)
