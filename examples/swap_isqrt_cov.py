"""Swaps the iSQRT-COV head of a small classifier: covariance pooling and its matrix square root.

python examples/swap_isqrt_cov.py --batch 4 --channels 256 --reduced 128 --size 7
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import ccdn_ops


class IsqrtCovHead(nn.Module):
    """The head as its paper has it: reduction, covariance, root by iteration, upper triangle."""

    def __init__(self, channels: int, reduced: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        root = matrix_root(covariance(self.reduce(x)), self.iterations)
        rows, columns = torch.triu_indices(root.shape[1], root.shape[1])
        return root[:, rows, columns]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=256, help="of the features")
    parser.add_argument("--reduced", type=int, default=128, help="channels of the covariance")
    parser.add_argument("--size", type=int, default=7, help="height and width of the maps")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10, help="of the timing")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, args.channels, 3, padding=1),
        IsqrtCovHead(args.channels, args.reduced, args.iterations),
        nn.Linear(args.reduced * (args.reduced + 1) // 2, 10),
    )
    original = copy.deepcopy(model)
    images = torch.randn(args.batch, 3, args.size, args.size)

    print(ccdn_ops.swap_second_order(model))
    found, wanted = model(images), original(images)
    print(f"outputs differ by {relative(found, wanted):.1e}, relative")
    found.square().mean().backward()
    wanted.square().mean().backward()
    found_grad, wanted_grad = model[1].reduce[0].weight.grad, original[1].reduce[0].weight.grad
    print(f"gradients of the reduction differ by {relative(found_grad, wanted_grad):.1e}, relative")

    maps = torch.randn(args.batch, args.channels, args.size, args.size, requires_grad=True)
    ratio = time_ratio(original[1], model[1], maps, args.rounds)
    print(f"the head, forward and backward: {ratio:.1f} times as fast as before, in this run")


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
