"""multi_excite on the CPU, through csrc/cpu/ops/multi_excite.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu import binding
from ccdn_ops.backends.cpu.device import register
from ccdn_ops.layout import empty_maps, in_lines, in_order_of
from ccdn_ops.precision import accumulation_dtype


def _forward(x: Tensor, gates: Tensor) -> Tensor:
    out = empty_maps(x, *gates.shape[:2])
    x, line_stride = in_lines(x)
    shape = structs.multi_excite_shape(x, line_stride, gates.shape[1])
    forward = native.require().multi_excite_forward_cpu
    native.launch("multi_excite", forward, shape, x, gates, out)
    return out


def _backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    grad_x, grad_gates = empty_maps(x, x.shape[0]), torch.empty_like(gates)
    grad_out = in_order_of(x, grad_out)
    x, line_stride = in_lines(x)
    shape = structs.multi_excite_shape(x, line_stride, gates.shape[1])
    backward = native.require().multi_excite_backward_cpu
    native.launch("multi_excite_backward", backward, shape, grad_out, x, gates, grad_x, grad_gates)
    return grad_x, grad_gates


def _bind(x: Tensor, gates: Tensor) -> registry.Bound | None:
    lines, line_stride = in_lines(x)
    if lines is not x or not gates.is_contiguous():
        return None
    shape = structs.multi_excite_shape(x, line_stride, gates.shape[1])
    like = x.new_empty_strided(x.shape, x.stride(), device="meta")
    outputs = [empty_maps(like, *gates.shape[:2])]
    wide = gates.to("meta", accumulation_dtype(x.dtype))
    gradients = [empty_maps(like, x.shape[0]), wide]
    saving = binding.Saving(shape, [])
    bound = binding.bound("multi_excite", (x, wide), outputs, saving, gradients=gradients)
    return bound if gates.dtype == wide.dtype else _of_gates_in(gates.dtype, wide.dtype, bound)


def _of_gates_in(dtype: torch.dtype, wide: torch.dtype, bound: registry.Bound) -> registry.Bound:
    """Of gates that are converted: P numbers a channel, beside P maps."""

    def inference(x: Tensor, gates: Tensor) -> Tensor:
        found: Tensor = bound.inference(x, gates.to(wide))
        return found

    def forward(x: Tensor, gates: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        converted = gates.to(wide)
        return bound.forward(x, converted)[0], (converted,)

    def backward(
        grads: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        x, _, converted = tensors
        grad_x, grad_gates = bound.backward(grads, (x, converted))
        assert grad_gates is not None
        return grad_x, grad_gates.to(dtype)

    return registry.Bound(inference, forward, backward, lambda saved: ())


register("multi_excite", _forward, _backward, _bind)
