"""excitation_gates and multi_excite in plain PyTorch (eqs. 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ccdn_ops.backends.native import accumulation_dtype, no_autocast


def excitation_gates(
    squeezes: Sequence[Tensor],
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """O squeezes (B, D) -> the gates (B, P, D), summed over the orders, in the squeezes' dtype."""
    dtype, wide = squeezes[0].dtype, accumulation_dtype(squeezes[0].dtype)
    with no_autocast(squeezes[0].device.type):
        k = torch.stack([squeeze.to(wide) for squeeze in squeezes], 1)  # [B, O, D]
        w_v, b_v = reduce_weight.to(wide), reduce_bias.to(wide)  # [P, O, R, D], [P, O, R]
        w_u, b_u = expand_weight.to(wide), expand_bias.to(wide)  # [P, O, D, R], [P, O, D]
        hidden = torch.einsum("bod,pord->bpor", k, w_v) + b_v
        logits = torch.einsum("bpor,podr->bpod", hidden.relu(), w_u) + b_u
        return logits.sigmoid().sum(2).to(dtype)


def multi_excite(x: Tensor, gates: Tensor) -> Tensor:
    """x (B, D, H, W) times each of the gates (B, P, D) -> (B, P, D, H, W) in x's dtype."""
    return (x.unsqueeze(1) * gates[..., None, None]).to(x.dtype)
