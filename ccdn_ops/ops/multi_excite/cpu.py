"""multi_excite on the CPU, through csrc/cpu/ops/multi_excite.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends import native, registry, structs
from ccdn_ops.backends.cpu.device import supports
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
    if lines is not x or gates.dtype != accumulation_dtype(x.dtype) or not gates.is_contiguous():
        return None
    shape = structs.multi_excite_shape(x, line_stride, gates.shape[1])
    run = native.require().multi_excite_forward_cpu
    differentiate = native.require().multi_excite_backward_cpu
    like_x, like_out = empty_maps(x, x.shape[0]), empty_maps(x, *gates.shape[:2])
    size, strides, out_size, out_strides = (
        *(like_x.shape, like_x.stride()),
        *(like_out.shape, like_out.stride()),
    )

    def inference(x: Tensor, gates: Tensor) -> Tensor:
        out = x.new_empty_strided(out_size, out_strides)
        status = run(shape, x.data_ptr(), gates.data_ptr(), out.data_ptr())
        if status:
            raise native.failure("multi_excite", status)
        return out

    def backward(grads: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (grad_out,), (x, gates) = grads, inputs
        assert grad_out is not None
        if grad_out.stride() != out_strides:
            grad_out = in_order_of(x, grad_out)
        grad_x, grad_gates = x.new_empty_strided(size, strides), torch.empty_like(gates)
        status = differentiate(
            shape,
            grad_out.data_ptr(),
            x.data_ptr(),
            gates.data_ptr(),
            grad_x.data_ptr(),
            grad_gates.data_ptr(),
        )
        if status:
            raise native.failure("multi_excite_backward", status)
        return grad_x, grad_gates

    return registry.Bound(
        inference, lambda x, gates: (inference(x, gates), ()), backward, lambda saved: saved
    )


registry.register(
    "multi_excite",
    backend="cpu",
    forward=_forward,
    backward=_backward,
    supports=supports,
    bind=_bind,
)
