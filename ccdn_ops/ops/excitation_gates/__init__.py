"""excitation_gates: all bottleneck networks of a CTM in one call."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_device, check_shape, check_tensor
from ccdn_ops.ops.excitation_gates.spec import OPERATOR


def excitation_gates(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """The channel gates of all P excitations, summed over the O orders (eqs. 3 and 4).

    first, second (B, D); reduce_weight (P, O, R, D), reduce_bias (P, O, R), expand_weight
    (P, O, D, R), expand_bias (P, O, D) -> gates (B, P, D) in first's dtype, each between 0 and O.
    With O = 1 (FCDN, plain squeeze and excitation) second is None. float32, float64, bfloat16 or
    float16; 16-bit inputs are computed in float32. The weights may have their own dtype, which
    their gradients share.

    Raises TypeError for any other dtype, and ValueError for empty sizes other than B, for shapes or
    devices that do not agree, and for a second that is missing or superfluous. Differentiable any
    number of times and in forward mode (docs/limits.md).
    """
    weights = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    found = _excitation_gates.direct((first, second, *weights), ())
    if found is not None:
        return found
    operator = "excitation_gates"
    check_tensor(operator, "first", first)
    if first.dim() != 2 or first.shape[1] < 1:
        raise ValueError(
            f"ccdn_ops.{operator}: first has shape {tuple(first.shape)}; "
            "expected (B, D) with D >= 1"
        )
    orders = check_weights(operator, first.shape[1], *weights)
    if (second is None) != bool(orders == 1):  # a tensor in torch.jit.trace
        found = "missing" if second is None else "given"
        raise ValueError(
            f"ccdn_ops.{operator}: second is {found} and reduce_weight has O = {orders}; "
            "expected second with O = 2 and None with O = 1"
        )
    if second is not None:
        check_shape(operator, "second", second, tuple(first.shape), "(B, D)")
        if second.dtype != first.dtype:
            raise TypeError(
                f"ccdn_ops.{operator}: second has dtype {second.dtype}; "
                f"expected first's, {first.dtype}"
            )
    check_device(
        operator,
        first=first,
        second=second,
        reduce_weight=reduce_weight,
        reduce_bias=reduce_bias,
        expand_weight=expand_weight,
        expand_bias=expand_bias,
    )
    (gates,) = _excitation_gates(first, second, *weights)
    return gates


def check_weights(
    operator: str,
    channels: int,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> int:
    """Checks the bottlenecks' weights for D = channels and returns their O.

    Raises TypeError or ValueError for weights that do not fit.
    """
    check_tensor(operator, "reduce_weight", reduce_weight)
    shape = tuple(reduce_weight.shape)
    if len(shape) != 4 or shape[1] not in (1, 2) or shape[0] < 1 or shape[2] < 1:
        raise ValueError(
            f"ccdn_ops.{operator}: reduce_weight has shape {shape}; "
            "expected (P, O, R, D) with O = 1 or 2 and P, R >= 1"
        )
    p, o, r, _ = shape
    check_shape(operator, "reduce_weight", reduce_weight, (p, o, r, channels), "(P, O, R, D)")
    check_shape(operator, "reduce_bias", reduce_bias, (p, o, r), "(P, O, R)")
    check_shape(operator, "expand_weight", expand_weight, (p, o, channels, r), "(P, O, D, R)")
    check_shape(operator, "expand_bias", expand_bias, (p, o, channels), "(P, O, D)")
    return o


_excitation_gates = differentiable(OPERATOR)
