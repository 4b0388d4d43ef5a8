"""excitation_gates and multi_excite: all bottleneck networks of a CTM, and what they gate."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.backends import reference
from ccdn_ops.ops.checks import check_device, check_map, check_shape, check_tensor


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
    With O = 1 (FCDN, plain squeeze and excitation) second is None. 16-bit inputs are computed in
    float32; weights may have a dtype of their own, and their gradients have it.

    Raises TypeError for a dtype that is not floating, ValueError for shapes or devices that do not
    agree, and for a second that is missing or superfluous.
    """
    operator = "excitation_gates"
    check_tensor(operator, "first", first)
    if first.dim() != 2:
        raise ValueError(
            f"ccdn_ops.{operator}: first has shape {tuple(first.shape)}; expected (B, D)"
        )
    check_tensor(operator, "reduce_weight", reduce_weight)
    if reduce_weight.dim() != 4 or reduce_weight.shape[1] not in (1, 2):
        raise ValueError(
            f"ccdn_ops.{operator}: reduce_weight has shape {tuple(reduce_weight.shape)}; "
            "expected (P, O, R, D) with O = 1 or 2"
        )
    p, o, r, _ = reduce_weight.shape
    d = first.shape[1]
    check_shape(operator, "reduce_weight", reduce_weight, (p, o, r, d), "(P, O, R, D)")
    check_shape(operator, "reduce_bias", reduce_bias, (p, o, r), "(P, O, R)")
    check_shape(operator, "expand_weight", expand_weight, (p, o, d, r), "(P, O, D, R)")
    check_shape(operator, "expand_bias", expand_bias, (p, o, d), "(P, O, D)")
    if (second is None) != (o == 1):
        found = "missing" if second is None else "given"
        raise ValueError(
            f"ccdn_ops.{operator}: second is {found} and reduce_weight has O = {o}; "
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
    squeezes = [first] if second is None else [first, second]
    return reference.excitation_gates(
        squeezes, reduce_weight, reduce_bias, expand_weight, expand_bias
    )


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """x gated channel-wise by each excitation: out[b, p] = gates[b, p] * x[b] (eq. 4).

    x (B, D, H, W), gates (B, P, D) -> (B, P, D, H, W) in x's dtype.

    Raises TypeError for a dtype that is not floating, ValueError for shapes or devices that do not
    agree.
    """
    operator = "multi_excite"
    check_map(operator, "x", x, ranks=(4,))
    check_tensor(operator, "gates", gates)
    if gates.dim() != 3:
        raise ValueError(
            f"ccdn_ops.{operator}: gates has shape {tuple(gates.shape)}; expected (B, P, D)"
        )
    expected = (x.shape[0], gates.shape[1], x.shape[1])
    check_shape(operator, "gates", gates, expected, "(B, P, D)")
    check_device(operator, x=x, gates=gates)
    return reference.multi_excite(x, gates)
