"""multi_excite on the CPU, through csrc/cpu/ops/multi_excite.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry
from ccdn_ops.backends.cpu.device import supports
from ccdn_ops.layout import empty_maps, in_lines, in_order_of


def _forward(x: Tensor, gates: Tensor) -> Tensor:
    out = empty_maps(x, *gates.shape[:2])
    x, line_stride = in_lines(x)
    shape = native.multi_excite_shape(x, line_stride, gates.shape[1])
    forward = native.require().multi_excite_forward_cpu
    native.launch("multi_excite", forward, shape, x, gates, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    grad_x, grad_gates = empty_maps(x, x.shape[0]), torch.empty_like(gates)
    grad_out = in_order_of(x, grad_out)
    x, line_stride = in_lines(x)
    shape = native.multi_excite_shape(x, line_stride, gates.shape[1])
    backward = native.require().multi_excite_backward_cpu
    native.launch("multi_excite_backward", backward, shape, grad_out, x, gates, grad_x, grad_gates)
    return grad_x, grad_gates


registry.register(
    "multi_excite", backend="cpu", forward=_forward, backward=_backward, supports=supports
)
