"""Second-order layers as their papers' code has them, written again for the tests of swapping.

What matters is kept: an N x N centring matrix, autograd Functions with the iteration's backward
pass by hand, the class and attribute names, an upper triangle of shape (B, D (D + 1) / 2, 1), the
central window of 1000 positions, one iteration that comes out wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class Covpool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        n = flat.shape[2]
        centring = (torch.eye(n, dtype=x.dtype, device=x.device) - 1 / n) / n
        ctx.save_for_backward(x, centring)
        return flat @ centring @ flat.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, centring = ctx.saved_tensors
        (grad,) = grads
        return ((grad + grad.mT) @ x.flatten(2) @ centring).view_as(x)


class Sqrtm(Function):
    """Y, Z <- Y P, P Z with P = (3 - Z Y) / 2 from Y = A, Z = 1, and back step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        three = 3 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        trace = x.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        y = a = x / trace
        z = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).expand_as(x)
        ys, zs = [], []
        for _ in range(steps):
            ys.append(y)
            zs.append(z)
            p = (three - z @ y) / 2
            y, z = y @ p, p @ z
        if steps == 1:
            y = (three - a) / 2  # the published code forgets the factor A here
        ctx.save_for_backward(a, trace, y, *ys, *zs)
        return y * trace.sqrt()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        a, trace, root, *iterates = ctx.saved_tensors
        (grad,) = grads
        steps = len(iterates) // 2
        dy, dz = grad * trace.sqrt(), torch.zeros_like(grad)
        for y, z in reversed(list(zip(iterates[:steps], iterates[steps:], strict=True))):
            p = (3 * torch.eye(a.shape[1], dtype=a.dtype, device=a.device) - z @ y) / 2
            dp = y @ dy + dz @ z  # every factor is symmetric
            dy, dz = dy @ p - z @ dp / 2, p @ dz - dp @ y / 2
        da = dy
        along = (da * a).sum((1, 2), keepdim=True)
        post = (grad * root).sum((1, 2), keepdim=True) / (2 * trace.sqrt())
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        return da / trace + (post - along / trace) * eye, None


class Triuvec(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        index = torch.ones(x.shape[1:]).triu().flatten().nonzero()
        ctx.save_for_backward(x, index)
        return x.flatten(1)[:, index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, index = ctx.saved_tensors
        out = torch.zeros_like(x.flatten(1))
        out[:, index] = grads[0]
        return out.view_as(x)


def CovpoolLayer(x: Tensor) -> Tensor:  # noqa: N802 - the published name
    return Covpool.apply(x)


def SqrtmLayer(x: Tensor, steps: int) -> Tensor:  # noqa: N802
    return Sqrtm.apply(x, steps)


def TriuvecLayer(x: Tensor) -> Tensor:  # noqa: N802
    return Triuvec.apply(x)


class SOCA(nn.Module):
    """SAN's layer; `window` is a constant there."""

    def __init__(self, channel: int, reduction: int = 8) -> None:
        super().__init__()
        self.max_pool = nn.MaxPool2d(kernel_size=2)  # present but never used
        self.conv_du = nn.Sequential(
            nn.Conv2d(channel, channel // reduction, 1, padding=0, bias=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(channel // reduction, channel, 1, padding=0, bias=True),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, h, w = x.shape
        inside = x
        if h > 1000:
            inside = inside[:, :, (h - 1000) // 2 : (h - 1000) // 2 + 1000]
        if w > 1000:
            inside = inside[..., (w - 1000) // 2 : (w - 1000) // 2 + 1000]
        root = SqrtmLayer(CovpoolLayer(inside), 5)
        return self.conv_du(root.mean(1).view(batch, channels, 1, 1)) * x


class MPNCOV(nn.Module):
    """fast-MPN-COV's head."""

    def __init__(
        self,
        iterNum: int = 3,
        is_sqrt: bool = True,
        is_vec: bool = True,
        input_dim: int = 2048,
        dimension_reduction: int | None = None,
    ) -> None:
        super().__init__()
        self.iterNum, self.is_sqrt, self.is_vec = iterNum, is_sqrt, is_vec
        self.dr = dimension_reduction
        if self.dr is not None:
            self.conv_dr_block = nn.Sequential(
                nn.Conv2d(input_dim, self.dr, kernel_size=1, stride=1, bias=False),
                nn.BatchNorm2d(self.dr),
                nn.ReLU(inplace=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.dr is not None:
            x = self.conv_dr_block(x)
        x = CovpoolLayer(x)
        if self.is_sqrt:
            x = SqrtmLayer(x, self.iterNum)
        return TriuvecLayer(x) if self.is_vec else x
