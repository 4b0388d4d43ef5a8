"""Finds sizes at which a block may start to do something else.

There are two sources: the numbers that its code reads, and its own decisions. Run on a map of
symbolic sizes, a block reveals every comparison of sizes that it makes, wherever the number comes
from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from . import probe
from .blocks import Layout, NearMiss, PoolingLayout

Size = tuple[int, int, int]  # B, H, W

# Small, large, long, many; none is a multiple of another's.
SIZES: tuple[Size, ...] = (
    (1, 1, 1), (1, 1, 2), (2, 2, 3), (3, 4, 1), (9, 2, 2), (1, 7, 7), (2, 9, 16), (17, 1, 2),
    (1, 33, 35), (66, 2, 1), (1, 131, 129), (1, 1003, 2), (1, 2, 1003),
)  # fmt: skip
_FIRST: Size = (4, 5, 6)
_PATHS = 12  # of a block's code, more than any block has
_ELEMENTS = 2**23


class Limits:
    """The largest map that a block of this layout is tried on."""

    def __init__(self, layout: Layout, channels: int) -> None:
        self.channels = channels
        self.second = isinstance(layout, PoolingLayout) or layout.squeeze == "covariance"

    def work(self, size: Size) -> int:
        """How many numbers its largest tensor has."""
        batch, height, width = size
        positions = height * width
        if not self.second:
            return batch * self.channels * positions
        return batch * max(self.channels, positions) ** 2  # the published code has both matrices

    def allow(self, size: Size) -> bool:
        # One position alone has no covariance, and the published code gives NaN.
        return self.work(size) <= _ELEMENTS and not (self.second and size[1] * size[2] == 1)


def sizes(
    numbers: dict[int, str], limits: Limits, compared: list[Size], complete: bool
) -> Iterator[tuple[Size, str]]:
    """Sizes to try, each with what suggests it; NearMiss for a number that is too large to try.

    `compared` and `complete` are what `decisions` found.
    """
    for number, place in sorted(numbers.items()):
        if number < 4:
            continue
        why = f"its code mentions {place}"
        for n in (number - 1, number, number + 1):
            for shapes in (((2, n, 1), (1, n, 1)), ((2, 1, n), (1, 1, n)), ((n, 2, 1), (n, 1, 1))):
                size = next((s for s in shapes if limits.allow(s)), None)
                if size is not None:
                    yield size, why
                elif shapes[0][0] != n or not complete:
                    raise NearMiss(f"{why}, perhaps a size, which is too large to be tried")
    for size in compared:
        yield size, "it compares sizes"
    for size in SIZES:
        if limits.allow(size):
            yield size, ""


_known: dict[tuple[object, ...], tuple[list[Size], bool]] = {}


def forget() -> None:
    """Forgets the decisions of blocks seen before."""
    _known.clear()


def decisions(module: nn.Module, limits: Limits, conditions: str) -> tuple[list[Size], bool]:
    """Sizes at which a comparison gives another result, and whether all comparisons are known.

    Blocks of one class, of the same parts and under the same conditions decide alike.
    """
    parts = tuple((name, type(part)) for name, part in module.named_modules())
    key = (parts, limits.channels, limits.second, conditions)
    if key not in _known:
        _known[key] = _decisions(module, limits)
    return _known[key]


def _decisions(module: nn.Module, limits: Limits) -> tuple[list[Size], bool]:
    found: list[Size] = []
    waiting, seen = [_FIRST], {_FIRST}
    complete = True
    for training in (True, False):
        made, known = _comparisons(module, limits.channels, _FIRST, training)
        complete &= known
        _other_sides(made, limits, seen, waiting, found)
    for hint in waiting[1:_PATHS]:
        made, known = _comparisons(module, limits.channels, hint, False)
        complete &= known
        _other_sides(made, limits, seen, waiting, found)
    return found, complete and len(waiting) <= _PATHS


def _other_sides(
    made: list[tuple[Any, dict[Any, int]]],
    limits: Limits,
    seen: set[Size],
    waiting: list[Size],
    found: list[Size],
) -> None:
    for comparison, dimensions in made:
        if any(_outcome(comparison, dimensions, size) is False for size in seen):
            continue
        for size in _candidates(comparison, limits):
            if _outcome(comparison, dimensions, size) is False:
                seen.add(size)
                waiting.append(size)
                found.append(size)
                break


def _candidates(comparison: Any, limits: Limits) -> Iterator[Size]:
    mentioned = {abs(int(atom)) for atom in comparison.atoms() if atom.is_Integer}
    near = {m + e for m in mentioned for e in (-1, 0, 1) if 0 < m + e < 2**22}
    near |= {round(m**0.5) + e for m in mentioned for e in (0, 1) if m < 2**44}
    lengths = sorted(near | {1, 2, 3, 5} | {2**k + 1 for k in range(2, 16)})
    every = {
        size
        for n in lengths
        for size in ((1, n, 1), (1, 1, n), (n, 1, 1), (n, 2, 1), (1, n, 2), (1, 2, n), (1, n, n))
    }
    yield from sorted(filter(limits.allow, every), key=lambda s: (s[0] * s[1] * s[2], s))


def _outcome(comparison: Any, dimensions: dict[Any, int], size: Size) -> bool | None:
    values = {symbol: size[dimension] for symbol, dimension in dimensions.items()}
    if not comparison.free_symbols <= values.keys():
        return None
    try:
        return bool(comparison.subs(values))
    except TypeError:
        return None


def _comparisons(
    module: nn.Module, channels: int, hint: Size, training: bool
) -> tuple[list[tuple[Any, dict[Any, int]]], bool]:
    """The comparisons of sizes that a forward pass makes, each with the meaning of its symbols.

    Also returns False if the pass could not be followed to its end. Raises NearMiss for a block
    that branches on values: sizes do not decide its branch, and no probe can find it.
    """
    from torch._subclasses import fake_tensor
    from torch.fx.experimental.symbolic_shapes import (
        DimDynamic,
        ShapeEnv,
        StatelessSymbolicContext,
    )

    open_, fixed = DimDynamic.DYNAMIC, DimDynamic.STATIC
    environment = ShapeEnv(
        allow_dynamic_output_shape_ops=True, allow_scalar_outputs=False, duck_shape=False
    )
    mode = fake_tensor.FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    twin = probe.random_copy(module).train(training)
    like = probe.features(twin, 1, channels, 1, 1)
    real = torch.empty(hint[0], channels, *hint[1:], dtype=like.dtype, device=like.device)
    dimensions: dict[Any, int] = {}
    complete = True
    with torch.no_grad(), mode:
        context: Any = StatelessSymbolicContext(dynamic_sizes=[open_, fixed, open_, open_])
        x = mode.from_tensor(real, symbolic_context=context)
        for place, dimension in enumerate((0, 2, 3)):
            node = getattr(x.shape[dimension], "node", None)
            if node is not None:
                dimensions[node.expr] = place
        try:
            twin(x)
        except fake_tensor.DataDependentOutputException as error:
            raise NearMiss(
                "it looks at the values of its input to decide what to compute"
            ) from error
        except Exception:
            complete = False
    return [(guard.expr, dimensions) for guard in environment.guards], complete
