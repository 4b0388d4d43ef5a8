"""The operators in standard ones: what the raw operators return, and no operator of ours left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ccdn_ops
import ccdn_ops.decompositions as decompositions
from ccdn_ops import reference

# N < D, N > D, N = D, a single position, a single channel.
SHAPES = [(2, 9, 2, 3), (3, 4, 5, 5), (2, 9, 3, 3), (2, 5, 1, 1), (2, 1, 3, 2)]


def maps(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Features with a dominant direction, and a constant sample."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64)
    x += 3 * torch.randn(shape[0], 1, *shape[2:], generator=random, dtype=torch.float64)
    x[-1] = 0.5
    return x.to(dtype)


def weights(channels: int, orders: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    shapes = [(3, orders, 4, channels), (3, orders, 4), (3, orders, channels, 4)]
    shapes.append((3, orders, channels))
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype) for s in shapes]


@pytest.mark.parametrize("iterations", [1, 2, 5, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_series_is_the_iteration(shape: tuple[int, ...], iterations: int) -> None:
    x = maps(shape)
    found = decompositions.dual_squeeze(x, iterations)
    raw = torch.ops.ccdn.dual_squeeze(x, iterations)
    for mine, theirs in zip(found, raw, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(found, reference.dual_squeeze(x, iterations), strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_fewer_bits(dtype: torch.dtype) -> None:
    x = maps((3, 40, 6, 6), dtype)
    first, second, *_ = decompositions.dual_squeeze(x, 5)
    expected = reference.dual_squeeze(x.double())[1]
    assert first.dtype == second.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 2**-8
    assert (second.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_ctm(shape: tuple[int, ...], orders: int) -> None:
    x, w = maps(shape), weights(shape[1], orders)
    found = decompositions.ctm(x, *w, 5)
    raw = torch.ops.ccdn.ctm(x, *w, 5)
    for mine, theirs in zip(found, raw, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


class Uses(torch.nn.Module):
    """Every operator with a decomposition, together."""

    def forward(self, x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        first, second = ccdn_ops.dual_squeeze(x)
        gates = ccdn_ops.excitation_gates(first, second, a, b, c, d)
        excited, pooled = ccdn_ops.ctm(x, (a, b, c, d))
        return ccdn_ops.multi_excite(x, gates).mean((3, 4)) + pooled + excited.mean((3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exported_graph_holds_none_of_ours(dtype: torch.dtype) -> None:
    inputs = (maps((2, 6, 3, 4), dtype), *weights(6, 2, dtype))
    dims = ({0: torch.export.Dim("batch", min=1)}, None, None, None, None)
    program = torch.export.export(Uses(), inputs, dynamic_shapes=dims)
    names = {str(node.target) for node in program.graph.nodes}
    assert len([name for name in names if name.startswith("ccdn.")]) == 4
    program = program.run_decompositions(decompositions.table())
    assert not [n for n in program.graph.nodes if str(n.target).startswith("ccdn.")]
    more = (maps((5, 6, 3, 4), dtype), *inputs[1:])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(program.module()(*more), Uses()(*more), rtol=16 * eps, atol=16 * eps)
