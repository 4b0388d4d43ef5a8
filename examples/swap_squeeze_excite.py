"""Swaps the squeeze-and-excitation blocks of a small residual network, then adds a second order.

python examples/swap_squeeze_excite.py --batch 8 --channels 64 --size 32
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import ccdn_ops


class SqueezeExcitation(nn.Module):
    """The block as most networks have it."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(channels // reduction, 1), 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(max(channels // reduction, 1), channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(squeezed))))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.se(self.bn(self.conv(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of the maps")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="of the timing")
    args = parser.parse_args()

    torch.manual_seed(0)
    stem = nn.Conv2d(3, args.channels, 3, padding=1)
    model = nn.Sequential(stem, *(ResidualBlock(args.channels) for _ in range(args.blocks)))
    original = copy.deepcopy(model)
    images = torch.randn(args.batch, 3, args.size, args.size)

    print(ccdn_ops.swap_squeeze_excite(model))
    with torch.no_grad():
        found, wanted = model.eval()(images), original.eval()(images)
    print(f"outputs differ by {((found - wanted).norm() / wanted.norm()).item():.1e}, relative")

    maps = torch.randn(args.batch, args.channels, args.size, args.size, requires_grad=True)
    ratio = time_ratio(original[1].se, model[1].se, maps, args.rounds)
    print(f"one block, forward and backward: {ratio:.2f} times as fast as before, in this run")

    print("\nThe same network with the covariance squeeze beside the mean:")
    report = ccdn_ops.swap_squeeze_excite(model, second_order=True)
    print(report)
    with torch.no_grad():
        found = model(images)
    print(f"outputs differ by {((found - wanted).norm() / wanted.norm()).item():.1e}, relative")
    optimiser = torch.optim.SGD(report.new_parameters.values(), lr=0.1)
    model.train()(images).square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        found = model.eval()(images)
    print(f"and by {((found - wanted).norm() / wanted.norm()).item():.1e} after a step of training")


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
