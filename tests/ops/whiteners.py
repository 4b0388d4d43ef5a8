"""Whitening as its papers' code does it: IterNorm and network deconvolution, for the swaps.

Written anew, with what makes the published code special: a Function of eight arguments in a row
that updates buffers and has no gradient in evaluation, and a matrix divided by its Frobenius norm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class IterativeNormalization(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, running_mean, running_matrix, width, ctx.steps, eps, momentum, training = args
        flat = x.transpose(0, 1).contiguous().view(x.shape[1] // width, width, -1)
        if training:
            mean = flat.mean(-1, keepdim=True)
            centred = flat - mean
            eye = torch.eye(width).to(x).expand(flat.shape[0], width, width)
            sigma = torch.baddbmm(eye, centred, centred.mT, beta=eps, alpha=1 / flat.shape[2])
            inverse_trace = (sigma * eye).sum((1, 2), keepdim=True).reciprocal()
            normal = sigma * inverse_trace
            p = [eye]
            for _ in range(ctx.steps):
                cube = torch.matrix_power(p[-1], 3)
                p.append(torch.baddbmm(p[-1], cube, normal, beta=1.5, alpha=-0.5))
            matrix = p[-1] * inverse_trace.sqrt()
            running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
            running_matrix.copy_(momentum * matrix + (1 - momentum) * running_matrix)
            ctx.save_for_backward(centred, inverse_trace, normal, matrix, *p)
        else:
            centred, matrix = flat - running_mean, running_matrix
            ctx.save_for_backward()
        white = matrix.matmul(centred)
        return white.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.saved_tensors:
            return (None,) * 8
        centred, inverse_trace, normal, matrix, *p = ctx.saved_tensors
        (grad,) = grads
        upstream = grad.transpose(0, 1).contiguous().view_as(centred)
        of_matrix = upstream @ centred.mT
        g, of_normal = of_matrix * inverse_trace.sqrt(), torch.zeros_like(normal)
        for before in reversed(p[:-1]):
            square = before @ before
            of_normal = of_normal - 0.5 * (square @ before).mT @ g
            inner = g @ normal.mT
            g = 1.5 * g - 0.5 * (
                inner @ square.mT + before.mT @ inner @ before.mT + square.mT @ inner
            )
        of_trace = (of_normal * normal).sum((1, 2), keepdim=True)
        of_trace = of_trace + (of_matrix * matrix).sum((1, 2), keepdim=True) / 2
        of_sigma = (of_normal - of_trace * torch.eye(normal.shape[1]).to(normal)) * inverse_trace
        of_x = matrix.mT @ upstream + (of_sigma + of_sigma.mT) @ centred / centred.shape[2]
        of_x = of_x - of_x.mean(-1, keepdim=True)
        of_x = of_x.view(grad.shape[1], grad.shape[0], *grad.shape[2:]).transpose(0, 1)
        return of_x.contiguous(), *(None,) * 7


class IterNorm(nn.Module):
    def __init__(self, channels: int, groups: int = 1, T: int = 5) -> None:
        super().__init__()
        width = channels // groups
        self.T, self.eps, self.momentum, self.num_channels = T, 1e-5, 0.1, width
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_mean", torch.zeros(groups, width, 1))
        self.register_buffer("running_wm", torch.eye(width).expand(groups, width, width).clone())

    def forward(self, x: Tensor) -> Tensor:
        x = IterativeNormalization.apply(
            x,
            self.running_mean,
            self.running_wm,
            self.num_channels,
            self.T,
            self.eps,
            self.momentum,
            self.training,
        )
        return x * self.weight + self.bias


def isqrt_newton_schulz_autograd(a: Tensor, numIters: int) -> Tensor:
    eye = torch.eye(a.shape[0], dtype=a.dtype, device=a.device)
    norm = a.norm()
    y, z = a.div(norm), eye
    for _ in range(numIters):
        t = 0.5 * (3.0 * eye - z @ y)
        y, z = y @ t, t @ z
    return z / torch.sqrt(norm)


def isqrt_newton_schulz_autograd_batch(a: Tensor, numIters: int) -> Tensor:
    batch, size, _ = a.shape
    eye = torch.eye(size, dtype=a.dtype, device=a.device).expand(batch, size, size)
    norm = a.reshape(batch, -1).norm(2, 1).view(batch, 1, 1)
    y, z = a.div(norm), eye
    for _ in range(numIters):
        t = 0.5 * (3.0 * eye - z.bmm(y))
        y, z = y.bmm(t), t.bmm(z)
    return z / torch.sqrt(norm)


class Deconvolution(nn.Module):
    """A 1 x 1 convolution whose input is whitened, as network deconvolution folds it in."""

    def __init__(self, inner: int, outer: int, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outer, inner // groups) / inner**0.5)
        self.groups, self.n_iter, self.eps = groups, 5, 1e-5

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        rows = rows - rows.mean(0)
        if self.groups == 1:
            eye = torch.eye(c, dtype=x.dtype, device=x.device)
            cov = torch.addmm(eye, rows.t(), rows, beta=self.eps, alpha=1 / rows.shape[0])
            weight = self.weight @ isqrt_newton_schulz_autograd(cov, self.n_iter)
            return (rows @ weight.t()).view(b, h, w, -1).permute(0, 3, 1, 2)
        grouped = rows.view(-1, self.groups, c // self.groups).transpose(0, 1)
        eye = torch.eye(c // self.groups, dtype=x.dtype, device=x.device)
        cov = torch.baddbmm(
            eye.expand(self.groups, -1, -1), grouped.transpose(1, 2), grouped, beta=self.eps,
            alpha=1 / rows.shape[0],
        )  # fmt: skip
        white = grouped @ isqrt_newton_schulz_autograd_batch(cov, self.n_iter)
        per = self.weight.view(self.groups, -1, c // self.groups)
        out = white @ per.transpose(1, 2)
        return out.transpose(0, 1).reshape(b, h, w, -1).permute(0, 3, 1, 2)
