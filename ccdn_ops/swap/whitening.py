"""Finds functions that whiten, by trying, and replaces their calls by operators.

Two are known. The inverse root of a matrix (D, D) or of several (B, D, D), with any number of
steps, as network deconvolution calls it (Ye et al., 2020): isqrt_newton_schulz_autograd(A, steps).
And IterNorm (Huang et al., 2019), an autograd Function of eight arguments that whitens groups of
channels over a batch and updates its running statistics.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ccdn_ops.ops.checks import FLOATING
from ccdn_ops.ops.covariance_pool import covariance_pool
from ccdn_ops.ops.newton_schulz_roots import newton_schulz_roots

from . import probe
from .blocks import FunctionLayout, Unfit
from .calls import has_numbers
from .code import Reading
from .replacement import Replacement
from .symmetric import is_symmetric
from .trials import COUNTS, signature, underlying, widths
from .watch import Conditions

# The arguments of IterNorm's Function after the map and the two buffers.
_WHITENING = ("channels of a group", "iterations", "eps", "momentum", "training")
# How far IterNorm's own rounding may take it from the operator, in units of a block's tolerance. In
# float32 its recurrence P^3 A is off by 3e-6 after 5 steps, and by ten times more after each other.
_ROUNDING = 10


@dataclass(frozen=True)
class InverseRoot(Replacement):
    """Calls go to the operator where the matrix is symmetric and is made so that its gradient may
    be; all others go to the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        a: Any = args[0] if args else None
        count = self._count(args, kwargs)
        if count is not None and self._fits(a) and is_symmetric(a):
            return inverse_root(self.layout, a, count)
        return self.function(*args, **kwargs)

    def _fits(self, a: Any) -> bool:
        return self._takes(a, self.layout.rank) and a.shape[-1] == a.shape[-2] and has_numbers(a)


@dataclass(frozen=True)
class Whitening(Replacement):
    """Training goes to the operators; what only applies the running statistics is left alone."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and len(args) == 3 + len(_WHITENING) and self._fits(*args):
            return whitened(*args[:-1])
        return self.function(*args, **kwargs)

    def _fits(
        self, x: Any, mean: Any, matrix: Any, channels: Any, count: Any, eps: Any, momentum: Any,
        training: Any,
    ) -> bool:  # fmt: skip
        if not (self._takes(x, 2, 3, 4, 5) and has_numbers(x)):
            return False
        if not (training is True and type(channels) is int and channels > 0 and x.numel()):
            return False
        if type(eps) is not float or type(momentum) is not float or type(count) is not int:
            return False
        groups, rest = divmod(x.shape[1], channels)
        sizes = (groups, channels, 1), (groups, channels, channels)
        return (
            rest == 0
            and count in self.layout.iterations
            and all(
                isinstance(own, Tensor)
                and own.shape == size
                and (own.dtype, own.device, own.requires_grad) == (x.dtype, x.device, False)
                for own, size in zip((mean, matrix), sizes, strict=True)
            )
        )


def inverse_root(layout: FunctionLayout, a: Tensor, iterations: int) -> Tensor:
    """What such a function computes of a symmetric matrix, by the operator."""
    matrices = a if layout.rank == 3 else a[None]
    found = newton_schulz_roots(matrices, iterations, layout.norm)[1]
    return found if layout.rank == 3 else found[0]


def whitened(
    x: Tensor,
    running_mean: Tensor,
    running_matrix: Tensor,
    channels: int,
    iterations: int,
    eps: float,
    momentum: float,
) -> Tensor:
    """What IterNorm's Function computes in training, by the operators."""
    flat = x.transpose(0, 1).flatten(1).unflatten(0, (-1, channels))  # (groups, D, B H W)
    mean = flat.mean(2, keepdim=True)
    identity = torch.eye(channels, dtype=x.dtype, device=x.device)
    matrix = newton_schulz_roots(covariance_pool(flat) + eps * identity, iterations)[1]
    with torch.no_grad():
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_matrix.copy_(momentum * matrix + (1 - momentum) * running_matrix)
    white = matrix @ (flat - mean)
    return white.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1).contiguous()


# Recognising --------------------------------------------------------------------------------------


def recognise(function: Callable[..., Any], reading: Reading) -> Replacement | None:
    """The replacement of a function that whitens, None for any other.

    Raises Unfit, with the reason, for one that computes it in some cases only.
    """
    conditions = Conditions(constants=reading.places())
    if _takes_eight(function):
        return _whitening(function, conditions, reading)
    try:
        argument, default = signature(function)
    except Unfit:
        return None
    return _inverse_root(function, argument, default, conditions, reading)


def _takes_eight(function: Callable[..., Any]) -> bool:
    forward, own = underlying(function)
    try:
        inspect.signature(forward).bind(*range(own + 3 + len(_WHITENING)))
    except (TypeError, ValueError):
        return False
    return True


def _inverse_root(
    function: Callable[..., Any],
    argument: str,
    default: int | None,
    conditions: Conditions,
    reading: Reading,
) -> InverseRoot | None:
    found = _first_layout(function, argument, default)
    if found is None:
        return None
    layout = found

    def agrees(size: int, count: int, dtype: torch.dtype = torch.float32) -> bool:
        arguments = (count,) if argument else ()
        return all(
            _same(
                lambda x: function(_covariance(x, layout.rank), *arguments),
                lambda x: inverse_root(layout, _covariance(x, layout.rank), count),
                _features(size, dtype, batch),
            )
            for batch in (1, 3)
        )

    counts = COUNTS if argument else layout.iterations
    served = tuple(count for count in counts if agrees(5, count))
    for size in widths(reading):
        if not agrees(size, (served or layout.iterations)[0]):
            raise Unfit(f"it computes something else than the inverse root of {size} x {size}")
    if not served:
        raise Unfit("it computes something else than the inverse root of 5 x 5")
    dtypes = tuple(t for t in FLOATING if agrees(5, served[0], t))
    layout = dataclasses.replace(layout, iterations=served)
    return InverseRoot(function, layout, dataclasses.replace(conditions, dtypes=dtypes))


def _first_layout(
    function: Callable[..., Any], argument: str, default: int | None
) -> FunctionLayout | None:
    """The inverse root that it computes, for the first number of iterations with which it does."""
    counts = list(COUNTS)
    if argument:
        counts = [default] if default and default in COUNTS else [5, 3]
    for rank in (2, 3):
        a = _covariance(_features(5, torch.float32, 3), rank)
        for count in counts if argument else [None]:
            try:
                with torch.no_grad():
                    found = function(a.clone(), *([] if count is None else [count]))
            except Exception:
                continue
            if not isinstance(found, Tensor) or found.shape != a.shape:
                continue
            for one in counts if count is None else [count]:
                for norm in (False, True):
                    layout = FunctionLayout(
                        "inverse root", iterations=(one,), argument=argument, rank=rank, norm=norm,
                        default=default if argument else one,
                    )  # fmt: skip
                    with torch.no_grad():
                        wanted = inverse_root(layout, a, one)
                    if probe.difference(found, wanted) <= 1e-4:
                        return layout
    return None


def _features(channels: int, dtype: torch.dtype, batch: int) -> Tensor:
    """(batch, channels, positions), correlated: with others, all numbers of steps look alike."""
    random = torch.Generator().manual_seed(channels)
    x = torch.randn(batch, channels, 3 * channels + 8, generator=random)
    mixing = torch.eye(channels) + torch.rand(channels, channels, generator=random)
    return (mixing @ x + torch.rand(batch, channels, 1, generator=random)).to(dtype)


def _covariance(x: Tensor, rank: int) -> Tensor:
    x = x if rank == 3 else x[0]
    centred = x - x.mean(-1, keepdim=True)
    identity = torch.eye(x.shape[-2], dtype=x.dtype)
    return centred @ centred.mT / x.shape[-1] + 1e-2 * identity


def _same(
    function: Callable[..., Any],
    replacement: Callable[..., Any],
    *tensors: Tensor,
    rounding: float = 1,
) -> bool:
    """Whether two functions of these tensors agree in results, in the gradient of the first, and in
    what they make of the others."""
    found = []
    for call in (replacement, function):
        x, *others = (t.clone() for t in tensors)
        x.requires_grad_()
        try:
            out = call(x, *others)
            upstream = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).cos()
            (grad,) = torch.autograd.grad(out, x, upstream.to(out).view(out.shape))
        except Exception:
            return False
        found.append([out.detach(), grad, *others])
    exact = max(64 * torch.finfo(tensors[0].dtype).eps, rounding * probe.OUTPUT_TOLERANCE)
    allowed = [exact, 10 * exact, *[exact] * (len(tensors) - 1)]
    pairs = zip(*found, allowed, strict=True)
    return all(probe.difference(mine, theirs) <= most for mine, theirs, most in pairs)


def _whitening(
    function: Callable[..., Any], conditions: Conditions, reading: Reading
) -> Whitening | None:
    def agrees(
        shape: tuple[int, ...], channels: int, count: int, eps: float = 1e-3, momentum: float = 0.1,
        dtype: torch.dtype = torch.float32,
    ) -> bool:  # fmt: skip
        batch, width, *lengths = shape
        x = _features(width, torch.float32, 1)[0]  # of which positions are drawn
        random = torch.Generator().manual_seed(3)
        index = torch.randint(x.shape[1], (batch * prod(lengths),), generator=random)
        x = x[:, index].unflatten(1, (batch, *lengths)).transpose(0, 1).contiguous()
        sizes = (width // channels, channels, 1), (width // channels, channels, channels)
        mean, matrix = (torch.rand(size, generator=random) for size in sizes)
        rest = (channels, count, eps, momentum)
        return _same(
            lambda x, mean, matrix: function(x, mean, matrix, *rest, True),
            lambda x, mean, matrix: whitened(x, mean, matrix, *rest),
            *(tensor.to(dtype) for tensor in (x, mean, matrix)),
            rounding=_ROUNDING,
        )

    usual = (4, 6, 3, 5)
    if not agrees(usual, 3, 5):
        return None
    served = tuple(count for count in COUNTS if agrees(usual, 3, count))
    for what, shape, channels, numbers in _occasions(widths(reading)):
        if not agrees(shape, channels, 5, *numbers):
            raise Unfit(f"it computes something else than whitening for {what}")
    dtypes = tuple(dtype for dtype in FLOATING if agrees(usual, 3, 5, dtype=dtype))
    layout = FunctionLayout("whitening", iterations=served)
    return Whitening(function, layout, dataclasses.replace(conditions, dtypes=dtypes))


def _occasions(
    widths: list[int],
) -> Iterator[tuple[str, tuple[int, ...], int, tuple[float, float]]]:
    for shape in ((64, 6), (4, 6, 33), (2, 6, 3, 4, 5), (1, 6, 9, 16)):
        yield f"maps of shape {shape}", shape, 6, (1e-3, 0.1)
    for width in widths:
        yield f"groups of {width} channels", (2, 2 * width, 40, 3), width, (1e-3, 0.1)
    yield "another eps", (4, 6, 3, 5), 2, (0.5, 0.1)
    yield "another momentum", (4, 6, 3, 5), 2, (1e-3, 0.9)
