"""How the operators are judged: inputs that hurt, float64 truth, and the fp32-exact criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.chebyshev import chebyshev_coefficients

CHANNELS = (1, 3, 65, 129, 513)
POSITIONS = (1, 2, 49, 81, 1000)
SHAPES = [(d, n) for d in CHANNELS for n in POSITIONS]
# Quick ones: one of everything, both sides of the matrices, several strips of positions.
FEW_SHAPES = [(1, 1), (1, 49), (3, 2), (65, 1), (65, 49), (129, 81), (65, 1000)]
MANY_SHAPES = [shape for shape in SHAPES if shape not in FEW_SHAPES]
KINDS = ("dominant", "noise", "rank_deficient", "nearly_constant", "large", "rectified")

# Below this relative error float32 results are as good as equal, whatever the reference's own.
EXACT = 5e-7
PERMUTATIONS = 3
# Few numbers have few roundings, whose sum varies more from one order to the next: over 32 orders
# of 2 x 3 x 49 the largest error is up to 2.2 times the largest of four.
FEW_NUMBERS = 1024
FEW_NUMBERS_PERMUTATIONS = 15

Call = Callable[..., Any]
Squeeze = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def features(
    kind: str, batch: int, channels: int, positions: int, *, seed: int = 0, dtype=torch.float32
) -> Tensor:
    """(B, D, N) features. Independent noise hides rounding that a dominant direction shows."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    noise = draw(batch, channels, positions)
    direction = draw(batch, channels, 1) * draw(batch, 1, positions)
    if kind == "noise":
        x = noise
    elif kind == "dominant":
        x = 3 * direction + 0.3 * noise + draw(batch, channels, 1)
    elif kind == "rank_deficient":
        rank = max(1, min(channels, positions) // 4)
        x = draw(batch, channels, rank) @ draw(batch, rank, positions)
    elif kind == "nearly_constant":
        x = 1 + 1e-3 * noise
    elif kind == "large":
        x = 1e3 * (direction + 0.3 * noise + 1)
    elif kind == "rectified":
        x = (direction + noise).relu()
    else:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    return x.to(dtype)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent normal numbers, the same ones rounded for every dtype."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


def upstream(x: Tensor, *, seed: int = 1) -> Tensor:
    """A gradient (B, D) for an output of x, in x's dtype."""
    return normal(*x.shape[:2], seed=seed, dtype=x.dtype)


def err(found: Tensor, truth: Tensor) -> float:
    """|found - truth| / |truth| in Frobenius norms; |found| where the truth is 0."""
    size = truth.double().norm().item()
    return (found.double() - truth.double()).norm().item() / (size or 1.0)


def squeezes(kind: str, batch: int, channels: int, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """What dual_squeeze gives for features of the kind, 49 positions."""
    x = features(kind, batch, channels, 49, dtype=torch.float64)
    with ccdn_ops.use_backend(None):  # the fast one: they are only inputs
        first, second = ccdn_ops.dual_squeeze(x)
    return first.to(dtype), second.to(dtype)


def bottlenecks(
    excitations: int, orders: int, channels: int, *, scale: float = 1, dtype=torch.float32
) -> list[Tensor]:
    """Weights of excitation_gates, R = D / 4, for squeezes of size `scale`."""
    p, o, d, r = excitations, orders, channels, max(1, channels // 4)
    w = [
        normal(p, o, r, d, seed=4, dtype=torch.float64) / (scale * d**0.5),
        normal(p, o, r, seed=5, dtype=torch.float64),
        normal(p, o, d, r, seed=6, dtype=torch.float64) / r**0.5,
        normal(p, o, d, seed=7, dtype=torch.float64),
    ]
    return [t.to(dtype) for t in w]


# The criterion, for any operator ----------------------------------------------------------------


def step(
    call: Call, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """The outputs, and the gradients of the tensors for those of the outputs (None: none)."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    found = call(*leaves)
    outputs = (found,) if isinstance(found, Tensor) else tuple(found)
    reached = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None]
    gradients = torch.autograd.grad([y for y, _ in reached], leaves, [g for _, g in reached])
    return (*(y.detach() for y in outputs), *gradients)


def tolerance_floor(dtype: torch.dtype) -> float:
    """The error that is always allowed: 5e-7 in float32, two roundings of a 16-bit type."""
    return EXACT if dtype == torch.float32 else 2 * torch.finfo(dtype).eps


@dataclass(frozen=True)
class Judge:
    """The correct results of an operator: its literal reference and the axes of its tensors.

    inputs, outputs   a letter for every axis. The order along an axis means nothing to the operator
                      (O excepted): where the inputs are permuted, so is what comes out.
    floor             what float64 may differ by from the reference in float64, which is the truth
    """

    reference: Call
    inputs: Sequence[str]
    outputs: Sequence[str]
    floor: float = 1e-12

    def truth(
        self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Outputs and gradients of the float64 reference on the same numbers."""
        wide = [None if g is None else g.double() for g in grads]
        return step(self.reference, [t.double() for t in tensors], wide)

    def reference_errors(
        self,
        tensors: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        exact: Sequence[Tensor],
    ) -> list[float]:
        """The largest errors of the reference in the tensors' dtypes over permutations of the axes.

        One order of summation is one draw of a noise; the largest of several says how large it is.
        """
        few = sum(t.numel() for t in tensors) <= FEW_NUMBERS
        permutations = FEW_NUMBERS_PERMUTATIONS if few else PERMUTATIONS
        random = torch.Generator().manual_seed(2)
        sizes: dict[str, int] = {}
        for axes, tensor in zip(self.inputs, tensors, strict=True):
            sizes.update(zip(axes, tensor.shape, strict=True))
        worst = [0.0] * len(exact)
        for draw in range(permutations + 1):
            order = {
                axis: torch.randperm(size, generator=random) if draw else torch.arange(size)
                for axis, size in sizes.items()
                if axis != "O"
            }
            found = step(
                self.reference,
                [_moved(*pair, order) for pair in zip(self.inputs, tensors, strict=True)],
                [
                    None if g is None else _moved(axes, g, order)
                    for axes, g in zip(self.outputs, grads, strict=True)
                ],
            )
            results = zip((*self.outputs, *self.inputs), exact, strict=True)
            for i, (y, (axes, y64)) in enumerate(zip(found, results, strict=True)):
                worst[i] = max(worst[i], err(y, _moved(axes, y64, order)))
        return worst

    def tolerances(
        self,
        tensors: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        exact: Sequence[Tensor],
    ) -> tuple[float, ...]:
        """For every output and gradient: twice the reference's error, and at least the floor."""
        # One 16-bit tensor is enough: what is computed from it is as good as it is.
        dtype = max((t.dtype for t in tensors), key=lambda dtype: torch.finfo(dtype).eps)
        floor = self.floor if dtype == torch.float64 else tolerance_floor(dtype)
        errors = self.reference_errors(tensors, grads, exact)
        return tuple(max(2 * e, floor) for e in errors)

    def case(
        self, what: str, tensors: Sequence[Tensor], grads: Sequence[Tensor | None] | None = None
    ) -> Case:
        """A case of these tensors; random upstream gradients unless they are given."""
        if grads is None:
            shapes = [y.shape for y in _outputs(self.reference, tensors)]
            grads = [
                normal(*shape, seed=7 + i, dtype=tensors[0].dtype) for i, shape in enumerate(shapes)
            ]
        exact = self.truth(tensors, grads)
        return Case(self, what, tensors, grads, exact, self.tolerances(tensors, grads, exact))


def _outputs(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    with torch.no_grad():
        found = call(*tensors)
    return (found,) if isinstance(found, Tensor) else found


def _moved(axes: str, tensor: Tensor, order: dict[str, Tensor]) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis in order:
            tensor = tensor.index_select(dim, order[axis])
    return tensor


@dataclass(frozen=True)
class Case:
    """Tensors and upstream gradients, their correct results, and the tolerances."""

    judge: Judge
    what: str
    tensors: Sequence[Tensor]
    grads: Sequence[Tensor | None]
    exact: Sequence[Tensor]
    allowed: Sequence[float]

    def check(self, call: Call, device: str = "cpu") -> tuple[Tensor, ...]:
        """Outputs and gradients of a call, judged: dtype, shape, finite, within the tolerances."""
        tensors = [t.to(device) for t in self.tensors]
        grads = [None if g is None else g.to(device) for g in self.grads]
        found = step(call, tensors, grads)
        dtypes = [self.tensors[0].dtype] * len(self.judge.outputs) + [t.dtype for t in self.tensors]
        assert [y.dtype for y in found] == dtypes, self.what
        names = [f"output {i}" for i, _ in enumerate(self.judge.outputs)]
        names += [f"gradient of input {i}" for i, _ in enumerate(self.judge.inputs)]
        check_close([y.cpu() for y in found], self.exact, self.allowed, self.what, names)
        return found


def check_close(
    found: Sequence[Tensor],
    exact: Sequence[Tensor],
    allowed: Sequence[float],
    what: str = "",
    names: Sequence[str] = ("first", "second", "gradient"),
) -> None:
    """Every result within its tolerance of the truth."""
    for name, y, y64, tolerance in zip(names, found, exact, allowed, strict=True):
        assert y.shape == y64.shape, f"{name} of {what}: {tuple(y.shape)}, not {tuple(y64.shape)}"
        assert y.isfinite().all(), f"{name} of {what} is not finite"
        error = err(y, y64)
        assert error <= tolerance, f"{name} of {what}: error {error:.3g} > {tolerance:.3g}"


# dual_squeeze, by (first, second, gradient of x) ------------------------------------------------


def dual_squeeze_judge(iterations: int, axes: str = "BDN") -> Judge:
    """The floor in float64 is terms^2 roundings: the polynomial is right to a rounding, and by
    Markov's inequality the derivative of one of degree m to m^2 of them."""
    terms = chebyshev_coefficients(iterations, "float64").size
    floor = terms**2 * torch.finfo(torch.float64).eps
    squeeze = partial(reference.dual_squeeze, iterations=iterations)
    return Judge(squeeze, [axes], ["BD", "BD"], floor)


def values_and_gradient(
    squeeze: Squeeze, x: Tensor, grads: Sequence[Tensor | None], iterations: int
) -> tuple[Tensor, ...]:
    """first, second and the gradient of x for upstream (grad_first or None, grad_second)."""
    return step(lambda x: squeeze(x, iterations), [x], grads)


def truth(x: Tensor, grads: Sequence[Tensor | None], iterations: int) -> tuple[Tensor, ...]:
    """The float64 reference on the same numbers."""
    return dual_squeeze_judge(iterations).truth([x], grads)


def reference_errors(
    x: Tensor, grads: Sequence[Tensor | None], iterations: int, exact: Sequence[Tensor]
) -> list[float]:
    axes = "BDN" if x.dim() == 3 else "BDHW"
    return dual_squeeze_judge(iterations, axes).reference_errors([x], grads, exact)


def tolerances(
    x: Tensor, grads: Sequence[Tensor | None], iterations: int, exact: Sequence[Tensor]
) -> tuple[float, ...]:
    axes = "BDN" if x.dim() == 3 else "BDHW"
    return dual_squeeze_judge(iterations, axes).tolerances([x], grads, exact)


@lru_cache(maxsize=64)
def dual_squeeze_case(
    kind: str, batch: int, channels: int, positions: int, iterations: int, dtype: torch.dtype
) -> Case:
    """The gradient is that through second. Computed once for all backends."""
    x = features(kind, batch, channels, positions, dtype=dtype)
    what = f"{kind} {batch} x {channels} x {positions}, K = {iterations}, {dtype}"
    return dual_squeeze_judge(iterations).case(what, [x], (None, upstream(x)))


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
    case = dual_squeeze_case(kind, batch, channels, positions, iterations, dtype)
    case.check(partial(squeeze, iterations=iterations), device)


# Memory layouts ---------------------------------------------------------------------------------


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


def check_layout(judge: Judge, call: Call, layout: str, tensors: Sequence[Tensor]) -> None:
    """The criterion with the first tensor, maps (B, D, H, W), laid out so."""
    x, *others = tensors
    laid = laid_out(x, layout)
    case = judge.case(f"{layout} {tuple(x.shape)}", [laid.contiguous(), *others])
    found = replace(case, tensors=[laid, *others]).check(call)
    if layout in ("contiguous", "channels_last"):
        assert found[len(judge.outputs)].stride() == laid.stride()
