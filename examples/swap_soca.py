"""Swaps the second-order channel attention (SOCA) of a small super-resolution network.

python examples/swap_soca.py --batch 4 --channels 64 --size 24
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import ccdn_ops


class SOCA(nn.Module):
    """The layer as its paper has it: the D x D covariance, its root by iteration, a bottleneck."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        squeezed = matrix_root(covariance(x), steps=5).mean(2)
        return x * self.conv_du(squeezed[..., None, None])


def covariance(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    n = flat.shape[2]
    centring = (torch.eye(n, dtype=x.dtype, device=x.device) - 1 / n) / n
    return flat @ centring @ flat.mT


def matrix_root(a: Tensor, steps: int) -> Tensor:
    """Coupled Newton-Schulz iteration between trace normalisation and compensation."""
    trace = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    p = (3 * eye - a / trace) / 2
    y, z = (a / trace) @ p, p
    for step in range(1, steps):
        p = (3 * eye - z @ y) / 2
        y = y @ p
        z = p @ z if step < steps - 1 else z
    return y * trace.sqrt()


class AttentionGroup(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.soca = SOCA(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.soca(self.conv2(torch.relu(self.conv1(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=24, help="height and width of the maps")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="of the timing")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, args.channels, 3, padding=1),
        *(AttentionGroup(args.channels) for _ in range(args.groups)),
        nn.Conv2d(args.channels, 3 * 4, 3, padding=1),
        nn.PixelShuffle(2),
    )
    original = copy.deepcopy(model)
    images = torch.rand(args.batch, 3, args.size, args.size)

    print(ccdn_ops.swap_second_order(model))
    found, wanted = model(images), original(images)
    print(f"outputs differ by {relative(found, wanted):.1e}, relative")
    found.square().mean().backward()
    wanted.square().mean().backward()
    pairs = zip(model.parameters(), original.parameters(), strict=True)
    worst = max(relative(p.grad, q.grad) for p, q in pairs)
    print(f"gradients differ by {worst:.1e} at most, relative")

    maps = torch.randn(args.batch, args.channels, args.size, args.size, requires_grad=True)
    ratio = time_ratio(original[1].soca, model[1].soca, maps, args.rounds)
    print(f"one layer, forward and backward: {ratio:.1f} times as fast as before, in this run")


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def time_ratio(before: nn.Module, after: nn.Module, x: Tensor, rounds: int) -> float:
    """The median over rounds in which both run in turn, so that both see the same machine."""

    def seconds(module: Callable[[Tensor], Tensor]) -> float:
        start = time.perf_counter()
        module(x).sum().backward()
        return time.perf_counter() - start

    ratios = [seconds(before) / seconds(after) for _ in range(rounds + 2)][2:]
    return sorted(ratios)[len(ratios) // 2]


if __name__ == "__main__":
    main()
