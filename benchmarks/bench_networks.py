"""A training step of whole networks on the CPU, before and after a swap.

Float32, forward and backward pass, without the optimiser, which is the same for both. networks.py
says which part of each paper's network is measured. `blocks` and `functions` count what the swap
replaced. "+ branches" is SE-ResNet again, swapped and with a second-order branch in each SE block
(second_order=True); the network before has none. bench_training_step.py measures CCDN, which is
built on the operators. Prints its own table. Each network takes up to a minute on two cores.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import networks
import pytest
import torch
import torch.nn.functional as F
from timing import THREADS, interleaved, peak_bytes
from torch import Tensor, nn

import ccdn_ops

Table = Callable[[str], None]
Step = Callable[[], tuple[Tensor, Tensor]]
# Network, its input, and whether it has classes to tell apart.
SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "SAN": (networks.SAN, (4, 3, 48, 48), False),
    "iSQRT-COV ResNet-50": (networks.ISqrtCovResNet, (4, 1024, 14, 14), True),
    "SE-ResNet-50, iSQRT-COV": (networks.SEResNet, (4, 1024, 14, 14), True),
    "GSoP-Net": (networks.GSoPNet, (4, 256, 56, 56), True),
}


def step(model: nn.Module, x: Tensor, classes: bool, names: Collection[str] = ()) -> Step:
    """The output and the gradients of the named weights, or of all."""
    target = torch.arange(len(x)) if classes else F.interpolate(x, scale_factor=2)
    loss: Callable[..., Tensor] = F.cross_entropy if classes else F.l1_loss

    def run() -> tuple[Tensor, Tensor]:
        out = model(x)
        loss(out, target).backward()
        return out.detach(), gradient_of(model, names)

    return run


def gradient_of(model: nn.Module, names: Collection[str] = ()) -> Tensor:
    """All in one tensor. The weights keep none, so that every step begins with the same memory."""
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    found = torch.cat([grad.flatten() for name, grad in named if not names or name in names])
    model.zero_grad(set_to_none=True)
    return found


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


HEADER = (
    f"\n{'':26}{'x faster':>9}{'before s':>10}{'after s':>9}{'before MB':>11}{'after MB':>10}"
    f"{'output off':>12}{'gradient off':>14}  blocks functions"
)


@pytest.fixture(scope="module")
def header() -> list[str]:
    """The lines above the first row."""
    return [f"\ntraining step, {THREADS} threads, torch {torch.__version__}{HEADER}"]


@pytest.fixture
def table(header: list[str], capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def show(row: str) -> None:
        with capsys.disabled():
            print("\n".join([*header, row]))
        header.clear()

    return show


def compare(
    name: str, before: Step, after: Step, swapped: str, table: Table, benchmark: Any
) -> None:
    (out, gradient), (expected, reference) = after(), before()
    difference, of_gradient = off(out, expected), off(gradient, reference)
    # Nothing is timed that computes something else.
    assert difference <= 1e-5
    assert of_gradient <= 1e-4
    del out, gradient, expected, reference
    peaks = {"before": peak_bytes(before), "after": peak_bytes(after)}
    times = interleaved({"before": before, "after": after}, seconds=15, min_rounds=3)
    benchmark.pedantic(after, rounds=1)
    ratio = times["before"].best / times["after"].best
    table(
        f"{name:26}{ratio:9.2f}{times['before'].best:10.2f}{times['after'].best:9.2f}"
        f"{peaks['before'] / 1e6:11.0f}{peaks['after'] / 1e6:10.0f}{difference:12.1e}"
        f"{of_gradient:14.1e}  {swapped}"
    )
    benchmark.extra_info.update(
        ratio=ratio,
        seconds={key: timing.best for key, timing in times.items()},
        peak_bytes=peaks,
        difference=difference,
        gradient_difference=of_gradient,
    )


def pair(name: str) -> tuple[nn.Module, nn.Module, Tensor, bool]:
    make, shape, classes = SHAPES[name]
    torch.manual_seed(0)
    model = make()
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return model, copy.deepcopy(model), x, classes


@pytest.mark.parametrize("name", SHAPES)
def test_a_training_step(name: str, table: Table, benchmark: Any) -> None:
    before, after, x, classes = pair(name)
    first, second = ccdn_ops.swap_squeeze_excite(after), ccdn_ops.swap_second_order(after)
    blocks, functions = first.replaced + second.blocks, second.functions
    assert blocks + functions
    assert not second.skipped, str(second)
    swapped = f"{len(blocks):6} {len(functions):9}"
    compare(name, step(before, x, classes), step(after, x, classes), swapped, table, benchmark)


def test_branches_of_second_order(table: Table, benchmark: Any) -> None:
    before, after, x, classes = pair("SE-ResNet-50, iSQRT-COV")
    report = ccdn_ops.swap_squeeze_excite(after, second_order=True)
    ccdn_ops.swap_second_order(after)
    old = dict(before.named_parameters())
    assert report.new_parameters.keys() == {
        name for name, _ in after.named_parameters() if name not in old
    }
    ours, theirs = step(after, x, classes, old), step(before, x, classes)
    compare("  + branches", theirs, ours, f"{len(report.replaced):6}", table, benchmark)
