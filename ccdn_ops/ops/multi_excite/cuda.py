"""multi_excite through csrc/cuda/multi_excite.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cuda.device import supports
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.ops.multi_excite.spec import wide_gates


def forward(x: Tensor, gates: Tensor) -> Tensor:
    """The gated maps (B, P, D, H, W); see ccdn_ops/ops/multi_excite/spec.py."""
    out = empty_maps(x, *gates.shape[:2])
    x, line_stride = in_lines(x)
    module = native.require()
    shape = structs.multi_excite_shape(x, line_stride, gates.dtype, gates.shape[1])
    native.launch(
        "multi_excite", module.multi_excite_forward_cuda, shape, x, gates, out, native.stream(x)
    )
    return out


def backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the gates."""
    grad_x, grad_gates = empty_maps(x, x.shape[0]), torch.empty_like(gates)
    grad_out = in_order_of(x, grad_out)
    x, line_stride = in_lines(x)
    module = native.require()
    shape = structs.multi_excite_shape(x, line_stride, gates.dtype, gates.shape[1])
    native.launch(
        "multi_excite_backward",
        module.multi_excite_backward_cuda,
        shape,
        *(grad_out, x, gates, grad_x, grad_gates),
        native.workspace(module.multi_excite_workspace_cuda(shape), x.device),
        native.stream(x),
    )
    return grad_x, grad_gates


registry.register(
    "multi_excite",
    backend="cuda",
    forward=wide_gates(forward),
    backward=wide_gates(backward),
    supports=supports,
)
