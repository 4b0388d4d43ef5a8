"""The operators in PyTorch's own, for runtimes that know no others: ONNX, torch without ccdn_ops.

    exported = torch.export.export(model.eval(), ...)
    exported = exported.run_decompositions(ccdn_ops.decompositions.table())

The second-order squeeze goes by the Chebyshev series of plans.py, not by the iteration: some thirty
products of the smaller of D x D and N x N with a vector, which every runtime has. Outputs are those
of the forward operators, in the accumulation dtype; the backward ones stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ccdn_ops.schemas  # noqa: F401  (defines torch.ops.ccdn)
from ccdn_ops.backends.native import DTYPE_NAMES, accumulation_dtype
from ccdn_ops.backends.reference.excitation_gates import bottlenecks
from ccdn_ops.plans import dual_squeeze_plan


def table() -> dict[Any, Callable[..., Any]]:
    """What `run_decompositions` takes: dual_squeeze, excitation_gates, multi_excite and ctm."""
    return {
        torch.ops.ccdn.dual_squeeze.default: dual_squeeze,
        torch.ops.ccdn.excitation_gates.default: excitation_gates,
        torch.ops.ccdn.multi_excite.default: multi_excite,
        torch.ops.ccdn.ctm.default: ctm,
    }


def dual_squeeze(x: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """first, second, mean, trace and gram of x (B, D, N) or (B, D, H, W), as
    schemas/dual_squeeze.py says."""
    wide = x.flatten(2).to(accumulation_dtype(x.dtype))
    _, channels, positions = wide.shape
    # Of the two series on the channels' side it is that of the root, the CPU kernel's.
    plan = dual_squeeze_plan(channels, positions, iterations, DTYPE_NAMES[wide.dtype], "cpu")
    mean = wide.mean(2)  # [B, D]
    centred = wide - mean.unsqueeze(2)
    by_channels = plan.side == "channels"
    gram = (centred @ centred.mT if by_channels else centred.mT @ centred) / positions
    trace = centred.square().sum((1, 2)) / positions  # [B]

    rounding = 16 * torch.finfo(wide.dtype).eps
    constant = trace <= rounding**2 * wide.square().sum((1, 2)) / positions
    safe = torch.where(constant, torch.ones_like(trace), trace)
    a = gram / safe[:, None, None]  # eigenvalues in [0, 1]
    start = (torch.ones_like(mean) if by_channels else centred.sum(1)).unsqueeze(2)
    y = _series(a, start, plan.coefficients.tolist())
    scale = safe.sqrt() / channels
    if not plan.root:  # the series of q_K: kappa = scale A q_K(A) 1
        y = a @ y if by_channels else centred @ y / (positions * safe[:, None, None])
    second = scale.unsqueeze(1) * y.squeeze(2)
    second = torch.where(constant.unsqueeze(1), torch.zeros_like(second), second)
    trace = torch.where(constant, torch.zeros_like(trace), trace)
    return mean.to(x.dtype), second.to(x.dtype), mean, trace, gram


def _series(a: Tensor, start: Tensor, coefficients: list[float]) -> Tensor:
    """The sum of c_j T_j(2 a - 1) start, for a (B, n, n) and start (B, n, 1)."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    twice = 4 * a - 2 * eye
    before, now = start, (twice @ start) / 2
    total = coefficients[0] * before + coefficients[1] * now
    for c in coefficients[2:]:
        before, now = now, twice @ now - before
        total = total + c * now
    return total


def excitation_gates(
    first: Tensor,
    second: Tensor | None,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """gates, hidden and scales, as schemas/excitation_gates.py says."""
    wide = accumulation_dtype(first.dtype)
    weights = (w.to(wide) for w in (reduce_weight, reduce_bias, expand_weight, expand_bias))
    squeezed = None if second is None else second.to(wide)
    gates, hidden, scales = bottlenecks(first.to(wide), squeezed, *weights)
    return gates.to(first.dtype), hidden, scales


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """Every gate's (B, P, D) share of x (B, D, H, W), in x's dtype."""
    return (x.unsqueeze(1) * gates[..., None, None]).to(x.dtype)


def ctm(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Everything that the operator ctm returns; schemas/ctm.py says what."""
    wide = accumulation_dtype(x.dtype)
    weights = (w.to(wide) for w in (reduce_weight, reduce_bias, expand_weight, expand_bias))
    if reduce_weight.shape[1] == 1:
        mean = x.mean((2, 3), dtype=wide)
        second, trace, gram = (mean.new_empty(0) for _ in range(3))
        gates, hidden, scales = bottlenecks(mean, None, *weights)
    else:
        _, second, mean, trace, gram = dual_squeeze(x.flatten(2).to(wide), iterations)
        gates, hidden, scales = bottlenecks(mean, second, *weights)
    pooled = (gates * mean.unsqueeze(1)).to(x.dtype)
    return multi_excite(x, gates), pooled, mean, second, trace, gram, gates, hidden, scales
