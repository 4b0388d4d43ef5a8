"""ctm on every backend that serves CPU tensors, and against eqs. 1 to 4 in loops."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from harness import (
    FEW_SHAPES,
    KINDS,
    LAYOUTS,
    MANY_SHAPES,
    Case,
    Judge,
    bottlenecks,
    check_layout,
    err,
    features,
    normal,
    step,
)
from test_excitation_gates import WEIGHTS, gates_by_loops
from test_multi_excite import SIDES

from ccdn_ops import ctm, dual_squeeze, reference

JUDGE = Judge(lambda x, *weights: reference.ctm(x, weights), ["BDHW", *WEIGHTS], ["BPDHW", "BPD"])


def call(x: Any, *weights: Any) -> Any:
    return ctm(x, weights)


@lru_cache(maxsize=32)
def case(
    kind: str,
    channels: int,
    positions: int,
    excitations: int = 3,
    orders: int = 2,
    dtype: torch.dtype = torch.float32,
    weights_dtype: torch.dtype | None = None,
) -> Case:
    x = features(kind, 2, channels, positions, dtype=dtype).unflatten(2, SIDES[positions])
    scale = 1e3 if kind == "large" else 1  # else the sigmoids are flat
    w = bottlenecks(excitations, orders, channels, scale=scale, dtype=weights_dtype or dtype)
    what = f"{kind} {tuple(x.shape)}, P = {excitations}, O = {orders}, {dtype}"
    return JUDGE.case(what, [x, *w])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), FEW_SHAPES)
def test_fp32_exact(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(call)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), MANY_SHAPES)
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(call)


@pytest.mark.parametrize("excitations", [1, 4, 5])
@pytest.mark.parametrize("orders", [1, 2])
def test_any_number_of_networks(backend: str, excitations: int, orders: int) -> None:
    case("dominant", 33, 49, excitations, orders).check(call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 49), (33, 81)])
def test_other_dtypes(
    backend: str, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    # Gradients of weights are sums over positions of what has the size of x times that of x.
    weights_dtype = torch.float32 if kind == "large" and dtype == torch.float16 else dtype
    case(kind, channels, positions, dtype=dtype, weights_dtype=weights_dtype).check(call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("orders", [1, 2])
def test_float32_weights_for_16_bit_maps(backend: str, orders: int, dtype: torch.dtype) -> None:
    case("dominant", 33, 49, 3, orders, dtype, torch.float32).check(call)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 24, 3, 5), (2, 10, 8, 6), (2, 5, 1, 7), (2, 5, 7, 1)])
@pytest.mark.parametrize("orders", [1, 2])
def test_memory_layouts(
    backend: str, orders: int, layout: str, shape: tuple[int, int, int, int]
) -> None:
    x = features("dominant", *shape[:2], shape[2] * shape[3]).view(shape)
    check_layout(JUDGE, call, layout, [x, *bottlenecks(3, orders, shape[1])])


@pytest.mark.parametrize("orders", [1, 2])
def test_eqs_1_to_4(backend: str, orders: int) -> None:
    x = features("dominant", 2, 8, 20, dtype=torch.float64).view(2, 8, 4, 5).requires_grad_()
    w = [t.requires_grad_() for t in bottlenecks(3, orders, 8, dtype=torch.float64)]
    excited, pooled = ctm(x, w)
    gates = gates_by_loops(list(dual_squeeze(x)[:orders]), w)
    assert err(excited.detach(), (gates[..., None, None] * x.unsqueeze(1)).detach()) < 1e-14
    # pooled is the mean of the maps, though they are never read for it; in value and in gradient.
    means = excited.mean((3, 4))
    assert err(pooled.detach(), means.detach()) < 1e-13
    g = normal(*means.shape, seed=8, dtype=torch.float64)
    from_pooled = torch.autograd.grad(pooled, [x, *w], g, retain_graph=True)
    from_maps = torch.autograd.grad(means, [x, *w], g)
    assert all(err(a, b) < 1e-12 for a, b in zip(from_pooled, from_maps, strict=True))


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize("alone", [0, 1])
def test_each_output_alone(backend: str, orders: int, alone: int) -> None:
    x = features("dominant", 2, 8, 20).view(2, 8, 4, 5)
    tensors = [x, *bottlenecks(3, orders, 8)]
    grads = [normal(2, 3, 8, 4, 5, seed=3), normal(2, 3, 8, seed=4)]
    found = step(call, tensors, [g if i == alone else None for i, g in enumerate(grads)])
    zeros = [g if i == alone else torch.zeros_like(g) for i, g in enumerate(grads)]
    wanted = step(call, tensors, zeros)
    assert all(err(a, b) <= 1e-6 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("orders", [1, 2])
def test_gradcheck(orders: int) -> None:
    x = features("dominant", 2, 8, 20, dtype=torch.float64).view(2, 8, 4, 5)
    tensors = [x, *bottlenecks(2, orders, 8, dtype=torch.float64)]
    tensors = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda x, *w: ctm(x, w, 3), tensors, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("orders", [1, 2])
def test_autocast(backend: str, orders: int, dtype: torch.dtype) -> None:
    x = features("large", 2, 8, 20, dtype=dtype).view(2, 8, 4, 5)
    w = bottlenecks(3, orders, 8, scale=1e3)
    plain = ctm(x, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ctm(x, w)
    assert all(y.dtype == dtype and y.equal(z) for y, z in zip(cast, plain, strict=True))


X = torch.ones(2, 8, 3, 3)
W = bottlenecks(4, 2, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], W), ValueError, r"x has shape \(8, 3, 3\); expected \(B, D, H, W\)"),
        ((X, W[:3]), ValueError, "weights has 3 tensors; expected 4"),
        ((X, W, 11), ValueError, "iterations is 11"),
        ((X.long(), W), TypeError, "x has dtype torch.int64"),
    ],
)
def test_wrong_input(arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.ctm: .*" + message):
        ctm(*arguments)
