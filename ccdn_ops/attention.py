"""Channel attention over given layers: what the modules of nn.py and replaced blocks compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from .ops.checks import check_map
from .ops.ctm import ctm
from .ops.dual_squeeze import dual_squeeze
from .ops.excitation_gates import excitation_gates
from .ops.multi_excite import multi_excite
from .ops.second_order_squeeze import second_order_squeeze

# A layer, or a function that takes its place.
Step = Callable[[Tensor], Tensor]

# torch.fx makes a node of each call of these, as of torch's own functions.
for _operator in ("_central", "ctm", "dual_squeeze", "multi_excite", "second_order_squeeze"):
    torch.fx.wrap(_operator)


def squeeze_excite(
    x: Tensor,
    layers: Sequence[Step],
    gate: Sequence[Step],
    second: nn.Module | None = None,
    iterations: int = 5,
) -> Tensor:
    """x * gate(layers(mean of x)), the logits plus second(covariance squeeze of x) if given.

    layers take (B, D, 1, 1) when the first of them is or contains a convolution, else (B, D).
    """
    traced = isinstance(x, torch.fx.Proxy)
    if not traced:
        check_map("nn.SqueezeExcite", "x", x, ranks=(4,))
    if second is None:
        weights = None if traced else bottleneck_weights(layers, gate)
        if weights is not None:
            return ctm(x, weights)[0].squeeze(1)
        logits = _through(layers, x.mean((2, 3)))
    else:
        squeezed = dual_squeeze(x, iterations)
        logits = _through(layers, squeezed[0])
        logits = logits + second(squeezed[1]).view_as(logits)
    return _excite(x, gate, logits)


def second_order_attention(
    x: Tensor,
    layers: Sequence[Step],
    gate: Sequence[Step],
    iterations: int = 5,
    window: int | None = None,
) -> Tensor:
    """x * gate(layers(covariance squeeze of x's central window))."""
    traced = isinstance(x, torch.fx.Proxy)
    if not traced:
        check_map("nn.SecondOrderAttention", "x", x, ranks=(4,))
    inside = x if window is None else _central(x, window)
    squeezed = second_order_squeeze(inside, iterations)
    # Calling the layers themselves lets a traced graph keep their weights as its own.
    weights = None if traced else bottleneck_weights(layers, gate)
    if weights is not None:
        return multi_excite(x, excitation_gates(squeezed, None, *weights)).squeeze(1)
    return _excite(x, gate, _through(layers, squeezed))


def bottleneck_weights(
    layers: Sequence[Step], gate: Sequence[Step]
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The weights as excitation_gates takes them, (1, 1, R, D) ..., where it computes these layers.

    None for layers other than linear, ReLU, linear, sigmoid, and where a hook, a parametrisation
    or an adapter would be bypassed.
    """
    modules = [m for m in (*layers, *gate) if type(m) is not nn.Identity]
    if len(modules) != 4 or any(is_hooked(m) for m in (*layers, *gate)):
        return None
    reduce, act, expand, sigmoid = modules
    if not (type(act) is nn.ReLU or act in (F.relu, torch.relu)) or not _is_sigmoid(sigmoid):
        return None
    weights = []
    for layer in (reduce, expand):
        if not isinstance(layer, (nn.Conv2d, nn.Linear)) or layer.bias is None:
            return None
        if type(layer) not in (nn.Conv2d, nn.Linear):
            return None
        weights += [layer.weight.flatten(1)[None, None], layer.bias[None, None]]
    return weights[0], weights[1], weights[2], weights[3]


def _is_sigmoid(step: Step) -> bool:
    """torch's class, or timm's own module of the same name and formula."""
    cls = type(step)
    timm = cls.__module__ == "timm.layers.activations" and cls.__name__ == "Sigmoid"
    return timm or cls is nn.Sigmoid or step in (torch.sigmoid, F.sigmoid)


def is_hooked(module: Step) -> bool:
    """Whether a call of the module does more than its forward."""
    return isinstance(module, nn.Module) and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _through(layers: Sequence[Step], squeezed: Tensor) -> Tensor:
    first = next((m for m in layers if type(m) is not nn.Identity), None)
    inside = first.modules() if isinstance(first, nn.Module) else ()
    out = squeezed[..., None, None] if any(isinstance(m, nn.Conv2d) for m in inside) else squeezed
    for layer in layers:
        out = layer(out)
    return out


def _excite(x: Tensor, gate: Sequence[Step], logits: Tensor) -> Tensor:
    for layer in gate:
        logits = layer(logits)
    return multi_excite(x, logits.flatten(1).unsqueeze(1)).squeeze(1)


def _central(x: Tensor, window: int) -> Tensor:
    """The central window x window positions of a larger map."""
    for dim in (2, 3):
        size = x.shape[dim]
        if torch.compiler.is_exporting() and isinstance(size, torch.SymInt):
            # Comparing an open size would fix whether it is smaller or larger than the window.
            start = torch.sym_max(size - window, 0) // 2
            places = torch.arange(torch.sym_min(size, window), device=x.device) + start
            x = x.index_select(dim, places)
        elif size > window:
            x = x.narrow(dim, (x.shape[dim] - window) // 2, window)
    return x
