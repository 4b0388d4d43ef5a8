"""How the operators are judged: inputs that hurt, float64 truth, and the fp32-exact criterion."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.plans import chebyshev_coefficients

CHANNELS = (1, 3, 65, 129, 513)
POSITIONS = (1, 2, 49, 81, 1000)
KINDS = ("dominant", "noise", "rank_deficient", "nearly_constant", "large", "rectified")

# Below this relative error float32 results are as good as equal, whatever the reference's own.
EXACT = 5e-7
PERMUTATIONS = 3

Squeeze = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def features(
    kind: str, batch: int, channels: int, positions: int, *, seed: int = 0, dtype=torch.float32
) -> Tensor:
    """(B, D, N) features. Independent noise hides rounding that a dominant direction shows."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    noise = normal(batch, channels, positions)
    direction = normal(batch, channels, 1) * normal(batch, 1, positions)
    if kind == "noise":
        x = noise
    elif kind == "dominant":
        x = 3 * direction + 0.3 * noise + normal(batch, channels, 1)
    elif kind == "rank_deficient":
        rank = max(1, min(channels, positions) // 4)
        x = normal(batch, channels, rank) @ normal(batch, rank, positions)
    elif kind == "nearly_constant":
        x = 1 + 1e-3 * noise
    elif kind == "large":
        x = 1e3 * (direction + 0.3 * noise + 1)
    elif kind == "rectified":
        x = (direction + noise).relu()
    else:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    return x.to(dtype)


def upstream(x: Tensor, *, seed: int = 1) -> Tensor:
    """A gradient (B, D) for an output of x, in x's dtype."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape[:2], generator=random, dtype=torch.float64).to(x.dtype)


def err(found: Tensor, truth: Tensor) -> float:
    """|found - truth| / |truth| in Frobenius norms; |found| where the truth is 0."""
    size = truth.double().norm().item()
    return (found.double() - truth.double()).norm().item() / (size or 1.0)


def values_and_gradient(
    squeeze: Squeeze, x: Tensor, grads: tuple[Tensor | None, Tensor], iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """first, second and the gradient of x for upstream (grad_first or None, grad_second)."""
    leaf = x.detach().requires_grad_()
    first, second = squeeze(leaf, iterations)
    outputs = [(o, g) for o, g in zip((first, second), grads, strict=True) if g is not None]
    (grad,) = torch.autograd.grad([o for o, _ in outputs], leaf, [g for _, g in outputs])
    return first.detach(), second.detach(), grad


def truth(
    x: Tensor, grads: tuple[Tensor | None, Tensor], iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The float64 reference on the same numbers."""
    wide = tuple(None if g is None else g.double() for g in grads)
    return values_and_gradient(reference.dual_squeeze, x.double(), wide, iterations)


def reference_errors(
    x: Tensor,
    grads: tuple[Tensor | None, Tensor],
    iterations: int,
    exact: tuple[Tensor, ...],
    permutations: int = PERMUTATIONS,
) -> list[float]:
    """The largest errors of the reference in x's dtype over permutations of positions and channels.

    One order of summation is one draw of a noise; the largest of four says how large that noise is.
    """
    random = torch.Generator().manual_seed(2)
    worst = [0.0, 0.0, 0.0]
    for draw in range(permutations + 1):
        d = torch.randperm(x.shape[1], generator=random)
        n = torch.randperm(x.flatten(2).shape[2], generator=random)
        if draw == 0:
            d, n = d.sort().values, n.sort().values
        moved = tuple(None if g is None else g[:, d] for g in grads)
        flat = x.flatten(2)[:, d][:, :, n]
        first, second, grad = values_and_gradient(reference.dual_squeeze, flat, moved, iterations)
        wanted = (exact[0][:, d], exact[1][:, d], exact[2].flatten(2)[:, d][:, :, n])
        for i, (found, want) in enumerate(zip((first, second, grad), wanted, strict=True)):
            worst[i] = max(worst[i], err(found, want))
    return worst


@lru_cache(maxsize=64)
def case(
    kind: str, batch: int, channels: int, positions: int, iterations: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, tuple[Tensor, ...], tuple[float, ...]]:
    """x, the gradient for second, the truth and the tolerances: computed once for all backends."""
    x = features(kind, batch, channels, positions, dtype=dtype)
    g = upstream(x)
    exact = truth(x, (None, g), iterations)
    return x, g, exact, tolerances(x, (None, g), iterations, exact)


def tolerances(
    x: Tensor,
    grads: tuple[Tensor | None, Tensor],
    iterations: int,
    exact: tuple[Tensor, ...],
) -> tuple[float, ...]:
    """For first, second and the gradient: twice the reference's error, and at least the floor.

    The floor is 5e-7 for float32 and two roundings of the type for 16-bit inputs. For float64 it is
    terms^2 roundings: the polynomial is right to a rounding, and by Markov's inequality the
    derivative of one of degree m to m^2 of them.
    """
    eps = torch.finfo(x.dtype).eps
    if x.dtype == torch.float32:
        floor = EXACT
    elif x.dtype == torch.float64:
        floor = chebyshev_coefficients(iterations, "float64").size ** 2 * eps
    else:
        floor = 2 * eps
    return tuple(max(2 * e, floor) for e in reference_errors(x, grads, iterations, exact))


def check_close(
    found: tuple[Tensor, ...],
    exact: tuple[Tensor, ...],
    allowed: tuple[float, ...],
    what: str = "",
) -> None:
    """first, second and gradient within their tolerances of the truth."""
    names = ("first", "second", "gradient")
    for name, y, y64, tolerance in zip(names, found, exact, allowed, strict=True):
        assert y.isfinite().all(), f"{name} of {what} is not finite"
        error = err(y, y64)
        assert error <= tolerance, f"{name} of {what}: error {error:.3g} > {tolerance:.3g}"


def check_exact(
    kind: str,
    channels: int,
    positions: int,
    *,
    batch: int = 2,
    iterations: int = 5,
    dtype: torch.dtype = torch.float32,
    squeeze: Squeeze = ccdn_ops.dual_squeeze,
    device: str = "cpu",
) -> None:
    """The fp32-exact criterion for one shape: values and the gradient through second."""
    x, g, exact, allowed = case(kind, batch, channels, positions, iterations, dtype)
    found = values_and_gradient(squeeze, x.to(device), (None, g.to(device)), iterations)
    assert all(y.dtype == x.dtype for y in found)
    what = f"{kind} {batch} x {channels} x {positions}, K = {iterations}, {dtype}"
    check_close(tuple(y.cpu() for y in found), exact, allowed, what)


LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "batch_strided", "expanded")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same (B, D, H, W) numbers under other strides ("expanded": those of the first sample)."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # H and W have no common stride
        room = x.new_full((x.shape[0], x.shape[1], x.shape[2], 2 * x.shape[3] + 1), float("nan"))
        room[..., 1::2] = x
        return room[..., 1::2]
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "batch_strided":
        room = x.new_full((x.shape[0], 2 * x.shape[1], *x.shape[2:]), float("nan"))
        room[:, x.shape[1] :] = x
        return room[:, x.shape[1] :]
    if layout == "expanded":
        return x[:1].expand_as(x)
    raise ValueError(f"layout is {layout!r}; expected one of {', '.join(LAYOUTS)}")
