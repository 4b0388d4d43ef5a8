"""The operators in standard ones: what the raw operators return, and no operator of ours left."""

from __future__ import annotations

from functools import partial

import harness
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


def test_every_operator_has_a_decomposition_or_a_reason() -> None:
    registered = {
        name.removeprefix("ccdn::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ccdn::")
    }
    assert {op._schema.name.removeprefix("ccdn::") for op in decompositions.table()} == registered
    for name in sorted(name for name in registered if name.endswith("_backward")):
        with pytest.raises(NotImplementedError, match=f"{name} has no decomposition: what is exp"):
            decompositions.table()[getattr(torch.ops.ccdn, name).default]()


@pytest.mark.parametrize("shape", SHAPES)
def test_matrices(shape: tuple[int, ...]) -> None:
    x = maps(shape)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)
    close(decompositions.covariance_pool(x)[0], reference.covariance_pool(x))
    for k in (1, 5):
        for triu in (False, True):
            close(decompositions.isqrt_cov(x, k, triu, False)[0], reference.isqrt_cov(x, k, triu))
        a = reference.covariance_pool(x)
        close(decompositions.newton_schulz_sqrt(a, k, False)[0], reference.newton_schulz_sqrt(a, k))
        for norm in (False, True):
            found = decompositions.newton_schulz_roots(a, k, norm, False)[:2]
            close(found, reference.newton_schulz_roots(a, k, norm))


def test_the_loss() -> None:
    levels = [maps((3, 4, 5)), maps((3, 4, 2)), torch.zeros(3, 4, 2, dtype=torch.float64)]
    found, _ = decompositions.cocs_loss(levels)
    torch.testing.assert_close(found, reference.cocs_loss(levels))


@pytest.mark.parametrize("iterations", [5, 7, 10])
@pytest.mark.parametrize("shape", [(3, 2), (9, 6), (4, 25), (65, 49), (33, 33), (65, 200)])
def test_float32_is_exact(shape: tuple[int, int], iterations: int) -> None:
    for kind in harness.KINDS:
        x = harness.features(kind, 2, *shape)
        judge = harness.dual_squeeze_judge(iterations)
        grads = (None, harness.upstream(x))
        exact = judge.truth([x], grads)
        allowed = judge.tolerances([x], grads, exact)[1]
        error = harness.err(decompositions.dual_squeeze(x, iterations)[1], exact[1])
        assert error <= allowed, f"{kind} {shape}: {error:.3g} > {allowed:.3g}"


class Matrices(torch.nn.Module):
    """The squeezes and matrices of a map, together."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        covariance = ccdn_ops.covariance_pool(x)
        squares = ccdn_ops.newton_schulz_sqrt(covariance)
        triangle = ccdn_ops.isqrt_cov(x, triu=True)
        return (*ccdn_ops.dual_squeeze(x), covariance, squares, triangle)


OPEN = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_onnx_of_every_size(dtype: torch.dtype) -> None:
    """One graph for more and for fewer positions than channels, one position, and other batches."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    program = torch.export.export(Matrices(), (maps((2, 8, 6, 5), dtype),), dynamic_shapes=OPEN)
    program = program.run_decompositions(decompositions.table())
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    session = runtime.InferenceSession(made.model_proto.SerializeToString())
    tolerance = 2 * torch.finfo(dtype).eps if dtype == torch.float16 else 1e-6
    for shape in [(1, 8, 2, 2), (3, 8, 9, 4), (2, 8, 1, 1), (2, 8, 1, 5)]:
        x = maps(shape, dtype)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        wide = x.double()
        squares = reference.newton_schulz_sqrt(reference.covariance_pool(x).double())
        exact = (*reference.dual_squeeze(wide), reference.covariance_pool(wide), squares)
        exact = (*exact, reference.isqrt_cov(wide, triu=True))
        for y, y64 in zip(found, exact, strict=True):
            assert harness.err(torch.from_numpy(y), y64) <= tolerance, shape


def test_a_size_that_must_be_fixed_is_named() -> None:
    class Triangle(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ccdn_ops.isqrt_cov(x, triu=True)

    channels = ({1: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(Triangle(), (maps((2, 4, 3, 3)),), dynamic_shapes=channels)
    with pytest.raises(ValueError, match="isqrt_cov: the number of channels is open"):
        program.run_decompositions(decompositions.table())


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
