"""multi_excite: schema, fake kernel, and what a backend must provide.

x (B, D, H, W), any strides, and gates (B, P, D) -> out (B, P, D, H, W) in x's dtype, dense, every
map in the memory order of x (ccdn_ops/layout.py); grad_x is dense in that order, too.

A backend provides

  forward(x, gates) -> out
  backward(grad_out, x, gates) -> grad_x, grad_gates

and gets x and grad_out with any strides, gates contiguous and in x's dtype or the accumulation
dtype (float64 for float64, else float32), and B, P >= 1. grad_gates may be in the accumulation
dtype or in that of the gates. It makes its results with empty_maps. `wide_gates` makes a backend of
one whose kernels take gates of the accumulation dtype only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.layout import empty_maps
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import folded
from ccdn_ops.precision import accumulation_dtype, no_autocast
from ccdn_ops.work import Call, Work


def _multi_excite_empty(x: Tensor, gates: Tensor) -> Tensor:
    return empty_maps(x, x.shape[0], gates.shape[1])


def _multi_excite_grads_empty(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    return empty_maps(x, x.shape[0]), gates.new_empty(gates.shape)


def _given(x: Tensor, gates: Tensor) -> Tensor:
    """The gates as a backend receives them."""
    dtype = x.dtype if gates.dtype == x.dtype else accumulation_dtype(x.dtype)
    return gates.to(dtype).contiguous()


def wide_gates(function: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's function, called with gates in the accumulation dtype."""

    @wraps(function)
    def call(*arguments: Tensor) -> Any:
        *maps, gates = arguments
        return function(*maps, gates.to(accumulation_dtype(gates.dtype)))

    return call


def _multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    if gates.numel() == 0:
        return _multi_excite_empty(x, gates)
    backend = registry.select("multi_excite", x, gates)
    with no_autocast(x.device.type):
        return backend.forward(x, _given(x, gates))


def _multi_excite_backward(grad_out: Tensor, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    if gates.numel() == 0:
        return empty_maps(x, x.shape[0]).zero_(), gates.new_empty(gates.shape)
    backend = registry.select("multi_excite", x, gates)
    with no_autocast(x.device.type):
        grad_x, grad_gates = backend.backward(grad_out, x, _given(x, gates))
    return grad_x, grad_gates.to(gates.dtype)


def work(x: Tensor, call: Call) -> Work:
    maps, copies = x.numel(), call.excitations
    gates = x.shape[0] * copies * x.shape[1]
    size = x.element_size()
    return Work(
        f"x read once, {copies} maps written",
        (size * (maps * (1 + copies) + gates), size * (maps * (2 + copies) + 2 * gates)),
        (copies * maps, 4 * copies * maps),
    )


OPERATOR = define(
    Operator(
        name="multi_excite",
        first="(B, D, H, W)",
        schema="(Tensor x, Tensor gates) -> Tensor out",
        kernel=_multi_excite,
        backward=_multi_excite_backward,
        fake=_multi_excite_empty,
        backward_fake=_multi_excite_grads_empty,
        vmap=folded,
        work=work,
        tensors={"x": "BDHW", "gates": "BPD"},
        results=["BPDHW"],
        samples=2,
        maps=2,
    )
)
