"""Runs copies of a block, to see what it computes and that a replacement computes the same."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .blocks import Layout, PoolingLayout, Unfit
from .swapped import convert

# Relative. Two ways to compute the same result in float32 agree to 1e-6 at 64 channels and, if the
# full matrix is iterated, to 5e-6 at 256; a different computation is off by 1e-3 or more.
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
_SEEDS = 12

L = TypeVar("L", bound=Layout)

_HOOKS = [name for name in vars(nn.Module()) if name.endswith("hooks")]


@contextmanager
def quiet() -> Iterator[None]:
    """Autograd on, autocast off, and torch's random numbers as they were before."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        cuda = torch.cuda.is_initialized()
        stack.enter_context(torch.random.fork_rng() if cuda else torch.random.fork_rng([]))
        yield


def random_copy(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with random weights and no hooks, in float32 (float64 stays), on the same device.

    Random weights, because a block's own may hide what it computes: if its last layer is zero,
    every squeeze gives the same gate.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if nn.parameter.is_lazy(tensor):
            raise Unfit("it is lazy and has no weights yet; run the model once, then swap")
        if tensor.is_meta:
            raise Unfit("its weights are on the meta device; swap after they are loaded")
    # Hooks may refer to anything, and would run: the copy gets empty ones.
    memo: dict[int, Any] = {
        id(vars(m)[name]): OrderedDict() for m in module.modules() for name in _HOOKS
    }
    try:
        twin = copy.deepcopy(module, memo)
        _randomise(twin, seed)
    except Exception as error:
        raise Unfit(f"it cannot be copied: {_first_line(error)}") from error
    return twin


def _randomise(module: nn.Module, seed: int) -> None:
    random = torch.Generator("cpu").manual_seed(seed)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    for parameter in module.parameters():
        size = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
        with torch.no_grad():
            parameter.copy_(size * torch.randn(parameter.shape, generator=random, device="cpu"))
        parameter.requires_grad_()


def features(module: nn.Module, *shape: int) -> Tensor:
    """Random features (B, D, H, W), correlated as a network's are, for a random_copy of the module.

    With independent channels, one Newton-Schulz step would already take the covariance to its root,
    and no output could reveal the number of steps.
    """
    batch, channels, height, width = shape
    random = torch.Generator("cpu").manual_seed(2)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random, device="cpu")

    x = 3 * normal(batch, channels, 1, 1) * normal(batch, 1, height, width)
    x = x + normal(*shape) + normal(batch, channels, 1, 1)
    like = next(module.parameters(), x)
    return x.to(like.device, torch.float64 if like.dtype == torch.float64 else torch.float32)


def run(module: nn.Module, x: Tensor) -> Tensor:
    """The module's output; Unfit if it raises or returns no tensor."""
    try:
        out = module(x)
    except Exception as error:
        raise Unfit(f"it does not take {tuple(x.shape)}: {_first_line(error)}") from error
    if not isinstance(out, Tensor):
        raise Unfit(f"its output is a {type(out).__name__}; expected a tensor")
    return out


def check_same(module: nn.Module, layout: Layout, channels: int) -> None:
    """Unfit, unless the layout gives the module's outputs and gradients, in training and not."""
    decided = False
    for seed in range(_SEEDS):
        training, shape = seed % 2 == 0, (5, 6) if seed % 4 < 2 else (3, 1)
        found, wanted = random_copy(module, seed), random_copy(module, seed)
        convert(found, layout)
        x = features(wanted, 4, channels, *shape)
        decided |= _compare(found.train(training), wanted.train(training), x, rounding(layout, x))
        if seed >= 3 and decided:
            return
    raise Unfit("its weights have no gradient on random features, so that nothing can be verified")


def matching(module: nn.Module, candidates: Sequence[L], *inputs: Tensor) -> list[L]:
    """Which of the layouts give the module's output.

    Several may, if the weights hide the difference: new weights are drawn until one is left.
    """
    left = list(candidates)
    for seed in range(_SEEDS):
        left = [layout for layout in left if _agrees(module, layout, inputs, seed)]
        if len(left) <= 1:
            break
    return left


def _agrees(module: nn.Module, layout: Layout, inputs: Sequence[Tensor], seed: int) -> bool:
    found, wanted = random_copy(module, seed).eval(), random_copy(module, seed).eval()
    convert(found, layout)
    with torch.no_grad():
        return all(
            difference(run(found, x), run(wanted, x)) <= OUTPUT_TOLERANCE * rounding(layout, x)
            for x in inputs
        )


def rounding(layout: Layout, x: Tensor) -> float:
    """What to multiply a tolerance with: a full matrix has more rounding with more channels."""
    return max(1.0, x.shape[1] / 64) if isinstance(layout, PoolingLayout) else 1.0


def long_features(module: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Maps of 2 x 1003 and 1003 x 2 positions, whose margins differ from the rest by much."""
    wide, tall = (features(module, 1, channels, *hw) for hw in ((2, 1003), (1003, 2)))
    for x in (wide, tall.mT):
        x[..., :1] *= 20
        x[..., 1001:] *= 20
    return wide, tall


def _compare(found: nn.Module, wanted: nn.Module, x: Tensor, factor: float) -> bool:
    """Outputs, gradients of x and of every parameter, and buffers, or Unfit.

    Returns whether that proves anything: a saturated gate, or one behind dead units, agrees with
    every layout.
    """
    leaf_found, leaf_wanted = (x.clone().requires_grad_() for _ in range(2))
    out_found, out_wanted = run(found, leaf_found), run(wanted, leaf_wanted)
    mode = "in training" if wanted.training else "in evaluation"
    require(out_found, out_wanted, OUTPUT_TOLERANCE * factor, f"output {mode}")
    random = torch.Generator("cpu").manual_seed(3)
    upstream = torch.randn(out_wanted.shape, generator=random, device="cpu").to(out_wanted)
    try:
        out_wanted.backward(upstream)
    except Exception as error:
        raise Unfit(f"its backward pass fails: {_first_line(error)}") from error
    out_found.backward(upstream)
    named = [("x", leaf_found.grad, leaf_wanted.grad)]
    others = dict(wanted.named_parameters())
    # The gradient of a bias before a batch norm is only rounding, with a large relative error.
    least = 1e-2 * max(_size(p.grad) for p in [leaf_wanted, *others.values()])
    named += [(name, p.grad, others[name].grad) for name, p in found.named_parameters()]
    for name, grad, other in named:
        if (grad is None) != (other is None):
            raise Unfit(f"the gradient of {name} exists in one of the two only")
        if grad is not None and other is not None:
            allowed = GRADIENT_TOLERANCE * factor
            require(grad, other, allowed, f"gradient of {name} {mode}", least)
    buffers = dict(wanted.named_buffers())
    for name, buffer in found.named_buffers():
        require(buffer, buffers[name], OUTPUT_TOLERANCE, f"buffer {name} {mode}")
    return all(p.grad is None or bool(p.grad.any()) for p in wanted.parameters() if p.dim() > 1)


def require(found: Tensor, wanted: Tensor, tolerance: float, what: str, least: float = 0) -> None:
    off = difference(found, wanted, least)
    if not off <= tolerance:
        raise Unfit(f"its {what} differs from the replacement's by {off:.1e}, relative")


def difference(found: Tensor, wanted: Tensor, least: float = 0) -> float:
    """The error relative to the norm of wanted, or to `least` if larger; inf for another shape."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    return _size(found.detach().double() - wanted.detach().double()) / (
        max(_size(wanted), least) or 1.0
    )


def _size(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None else tensor.detach().double().norm().item()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]
