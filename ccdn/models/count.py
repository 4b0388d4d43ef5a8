"""Weights and multiply-adds of a configuration, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import ccdn_ops  # noqa: F401  (defines torch.ops.ccdn)
from ccdn.config.model import ModelConfig
from ccdn.models.network import CCDN, build_model
from ccdn_ops.ops.dual_squeeze import spec as dual_squeeze
from ccdn_ops.work import Call

# The parts of the network, by the names of their modules in it.
PARTS = {
    "stem and stack": ("stem", "stack", "norms_stack", "heads_stack"),
    "stages": ("stage_fine", "stage_coarse", "norm_fine", "norm_coarse"),
    "CTM": ("ctm_fine", "ctm_coarse"),
    "CFF": ("cff",),
    "heads": ("head", "head_fine", "head_coarse", "head_integral", "head_spread"),
}


@dataclass(frozen=True)
class Count:
    """For each part of PARTS: weights, and multiply-adds of the forward pass of one crop.

    iteration: multiply-adds that the second-order squeezes would take as Newton-Schulz iterations
    of D x D matrices, beyond those that they take here. Counted are convolutions, linear layers,
    the squeeze and the excitation's products; means, sums, skips and normalisations are not.
    """

    weights: dict[str, int]
    multiply_adds: dict[str, int]
    iteration: int


def count(config: ModelConfig) -> Count:
    """Count a configuration; nothing is allocated or computed. Raises ValueError as CCDN does."""
    with torch.device("meta"), _NoInitialValues():
        model = build_model(config).eval()
    flops = flops_of(model, torch.empty(1, 3, config.input_size, config.input_size, device="meta"))
    weights = {
        part: sum(
            w.numel() for name, w in model.named_parameters() if name.partition(".")[0] in modules
        )
        for part, modules in PARTS.items()
    }
    assert sum(weights.values()) == sum(w.numel() for w in model.parameters())
    multiply_adds = {
        part: sum(flops.get(f"CCDN.{module}", 0) for module in modules) // 2
        for part, modules in PARTS.items()
    }
    assert sum(multiply_adds.values()) == flops.get("CCDN", 0) // 2
    return Count(weights, multiply_adds, _iteration(model))


class _NoInitialValues(TorchFunctionMode):
    """Skips filling tensors, which takes longer than everything else on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_):
            return args[0]
        return func(*args, **(kwargs or {}))


def flops_of(module: torch.nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """torch's count for a call of a module and of each module in it, two for a multiply-add."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.ccdn.ctm: _ctm_flops,
            torch.ops.ccdn.dual_squeeze: _dual_squeeze_flops,
            torch.ops.ccdn.excitation_gates: _gates_flops,
            torch.ops.ccdn.multi_excite: _excite_flops,
        },
    )
    with torch.no_grad(), counter:
        module(*inputs)
    return {name: sum(operators.values()) for name, operators in counter.get_flop_counts().items()}


def _ctm_flops(x: Sequence[int], reduce: Sequence[int], *rest: Any, **_: Any) -> int:
    excitations, orders = reduce[:2]
    iterations = rest[3]
    squeeze = _dual_squeeze_flops(x, iterations) if orders == 2 else 0
    gates = _gates_flops(x[:2], None, reduce)
    return squeeze + gates + _excite_flops(x, (x[0], excitations, x[1]))


def _dual_squeeze_flops(x: Sequence[int], iterations: int = 5, **_: Any) -> int:
    return _squeeze_flops(x, iterations, literal=False)


def _squeeze_flops(x: Sequence[int], iterations: int, literal: bool) -> int:
    # The plan makes the count depend on the device; this is the count of the CPU kernels.
    maps = torch.empty(1).expand(*x)
    return dual_squeeze.work(maps, Call(iterations=iterations, literal=literal)).operations[0]


def _gates_flops(first: Sequence[int], _: Any, reduce: Sequence[int], *rest: Any, **__: Any) -> int:
    excitations, orders, hidden, channels = reduce
    return 4 * first[0] * excitations * orders * hidden * channels


def _excite_flops(x: Sequence[int], gates: Sequence[int], **_: Any) -> int:
    batch, channels, height, width = x
    return 2 * batch * gates[1] * channels * height * width


def _iteration(model: CCDN) -> int:
    config = model.config
    if not config.ctm or config.orders == 1:
        return 0
    more = 0
    for channels, shrink in zip(config.stage_channels, (8, 16), strict=True):
        side = config.input_size // shrink
        shape = (1, channels, side, side * (1 if config.covariance == "centred" else 2))
        by_iteration = _squeeze_flops(shape, config.iterations, literal=True)
        more += (by_iteration - _squeeze_flops(shape, config.iterations, literal=False)) // 2
    return more
