"""excitation_gates in plain PyTorch: each layer of all networks is one batched product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def excitation_gates(first: Tensor, second: Tensor, *weights: Tensor) -> Tensor:
    """The gates (B, P, D) of two orders, differentiable once."""
    return _BestEager.apply(first, second, *weights)


class _BestEager(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        reduce_weight: Tensor,
        reduce_bias: Tensor,
        expand_weight: Tensor,
        expand_bias: Tensor,
    ) -> Tensor:
        p, orders = reduce_weight.shape[:2]
        kappa = torch.stack((first, second)).expand(p, -1, -1, -1).flatten(0, 1)  # [P O, B, D]
        reduce, expand = reduce_weight.flatten(0, 1), expand_weight.flatten(0, 1)
        hidden = torch.baddbmm(reduce_bias.flatten(0, 1).unsqueeze(1), kappa, reduce.mT).relu_()
        scales = torch.baddbmm(expand_bias.flatten(0, 1).unsqueeze(1), hidden, expand.mT).sigmoid_()
        ctx.save_for_backward(kappa, reduce, expand, hidden, scales)
        return scales.unflatten(0, (p, orders)).sum(1).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        kappa, reduce, expand, hidden, scales = ctx.saved_tensors
        both = grad.shape[1], 2
        upstream = grad.transpose(0, 1).unsqueeze(1).expand(-1, 2, -1, -1).flatten(0, 1)
        logits = torch.ops.aten.sigmoid_backward(upstream, scales)
        activation = torch.ops.aten.threshold_backward(torch.bmm(logits, expand), hidden, 0)
        grad_kappa = torch.bmm(activation, reduce).unflatten(0, both).sum(0)
        return (
            grad_kappa[0],
            grad_kappa[1],
            torch.bmm(activation.mT, kappa).unflatten(0, both),
            activation.sum(1).unflatten(0, both),
            torch.bmm(logits.mT, hidden).unflatten(0, both),
            logits.sum(1).unflatten(0, both),
        )
