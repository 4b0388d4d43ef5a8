"""multi_excite: a feature map gated by every excitation."""

from __future__ import annotations

from torch import Tensor

from ccdn_ops.ops.autograd import differentiable
from ccdn_ops.ops.checks import check_device, check_map, check_shape, check_tensor
from ccdn_ops.ops.multi_excite.spec import OPERATOR


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """x gated channel-wise by each excitation: out[b, p] = gates[b, p] * x[b] (eq. 4).

    x (B, D, H, W), gates (B, P, D) -> (B, P, D, H, W) in x's dtype. Every out[b, p] has the memory
    format of x: for x channels_last, out.flatten(0, 1) is. float32, float64, bfloat16 or float16;
    16-bit inputs are multiplied and accumulated in float32. gates may have their own dtype, which
    their gradient shares.

    Raises TypeError for any other dtype, and ValueError for shapes or devices that do not agree or
    an empty D, H or W. Differentiable any number of times and in forward mode (docs/limits.md).
    """
    found = _multi_excite.direct((x, gates), ())
    if found is not None:
        return found
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
    (out,) = _multi_excite(x, gates)
    return out


_multi_excite = differentiable(OPERATOR)
