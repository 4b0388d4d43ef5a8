"""multi_excite on every backend that serves CPU tensors: the numbers and the messages."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from harness import (
    FEW_SHAPES,
    KINDS,
    LAYOUTS,
    MANY_SHAPES,
    Case,
    Judge,
    check_layout,
    err,
    features,
    laid_out,
    normal,
    step,
)

from ccdn_ops import multi_excite, reference

JUDGE = Judge(reference.multi_excite, ["BDHW", "BPD"], ["BPDHW"])
SIDES = {1: (1, 1), 2: (1, 2), 49: (7, 7), 81: (9, 9), 1000: (25, 40)}


@lru_cache(maxsize=64)
def case(
    kind: str,
    channels: int,
    positions: int,
    excitations: int = 3,
    dtype: torch.dtype = torch.float32,
    gates_dtype: torch.dtype | None = None,
) -> Case:
    x = features(kind, 2, channels, positions, dtype=dtype).unflatten(2, SIDES[positions])
    gates = normal(2, excitations, channels, seed=2, dtype=gates_dtype or dtype)
    return JUDGE.case(f"{kind} {tuple(x.shape)}, P = {excitations}, {dtype}", [x, gates])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), FEW_SHAPES)
def test_fp32_exact(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(multi_excite)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "positions"), MANY_SHAPES)
def test_fp32_exact_full(backend: str, kind: str, channels: int, positions: int) -> None:
    case(kind, channels, positions).check(multi_excite)


@pytest.mark.parametrize("excitations", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("channels", [3, 65])
def test_any_number_of_excitations(backend: str, excitations: int, channels: int) -> None:
    case("dominant", channels, 49, excitations).check(multi_excite)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("channels", "positions"), [(1, 49), (65, 49), (33, 81)])
def test_other_dtypes(
    backend: str, kind: str, channels: int, positions: int, dtype: torch.dtype
) -> None:
    case(kind, channels, positions, dtype=dtype).check(multi_excite)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [3, 65])
def test_float32_gates_of_16_bit_maps(backend: str, channels: int, dtype: torch.dtype) -> None:
    case("dominant", channels, 49, 3, dtype, torch.float32).check(multi_excite)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize(
    ("channels", "positions", "excitations"),
    # the last one has more channels than the C++ kernels read gates at once
    [(1, 49, 1), (33, 81, 5), (80, 2, 3), (65, 1000, 2), (5, 1, 4), (2100, 2, 1)],
)
def test_16_bit_gates_are_rounded_once(
    backend: str,
    channels: int,
    positions: int,
    excitations: int,
    layout: str,
    dtype: torch.dtype,
) -> None:
    """As if they had been widened before and their gradient rounded, every time: the first calls
    take another way than the later ones."""
    x = features("dominant", 2, channels, positions, dtype=dtype).unflatten(2, SIDES[positions])
    x = laid_out(x, layout)
    gates = normal(2, excitations, channels, seed=2, dtype=dtype)
    g = normal(2, excitations, *x.shape[1:], seed=3, dtype=dtype)
    out, grad_x, grad_gates = step(multi_excite, [x, gates.float()], [g])
    for _ in range(3):
        found = step(multi_excite, [x, gates], [g])
        for y, z in zip(found, (out, grad_x, grad_gates.to(dtype)), strict=True):
            assert y.dtype == dtype
            assert y.equal(z)


@pytest.mark.parametrize("value", ["nan", "inf", "subnormal", "largest"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_16_bit_gates_of_any_value(
    backend: str, layout: str, dtype: torch.dtype, value: str
) -> None:
    limits = torch.finfo(dtype)
    number = {"subnormal": limits.tiny / 4, "largest": limits.max}.get(value) or float(value)
    x = laid_out(normal(1, 40, 3, 3, seed=1, dtype=dtype), layout)
    gates = torch.full((1, 2, 40), number, dtype=dtype)
    found = step(multi_excite, [x, gates], [torch.ones(1, 2, 40, 3, 3, dtype=dtype)])
    assert found[0].allclose(torch.stack([number * x] * 2, 1), rtol=0, atol=0, equal_nan=True)
    assert found[1].allclose((x * 0 + 1) * number * 2, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7F800001, -1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_nan_of_any_bits_stays_one(
    backend: str, layout: str, dtype: torch.dtype, bits: int
) -> None:
    """Rounding to bf16 adds to the bits, which must not carry a NaN into the sign."""
    x = laid_out(normal(1, 50, 5, 7, seed=1, dtype=dtype), layout)
    gates = torch.full((1, 2, 50), bits, dtype=torch.int32).view(torch.float32)
    gates[:, :, 20:30] = 1
    found = step(multi_excite, [x, gates], [torch.ones(1, 2, 50, 5, 7, dtype=dtype)])
    for y in found[:2]:
        channels = y.isnan().movedim(-3, -1)
        assert channels[..., :20].all()
        assert channels[..., 30:].all()
        assert not channels[..., 20:30].any()


@pytest.mark.parametrize(
    ("maps", "gates"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float16),
        (torch.float64, torch.float32),
        (torch.float32, torch.float64),
        (torch.bfloat16, torch.float16),
        (torch.bfloat16, torch.float64),
    ],
    ids=str,
)
def test_gates_of_another_dtype_are_converted(
    backend: str, maps: torch.dtype, gates: torch.dtype
) -> None:
    wide = torch.float64 if maps == torch.float64 else torch.float32
    x, g = normal(2, 7, 3, 5, seed=1, dtype=maps), normal(2, 3, 7, 3, 5, seed=3, dtype=maps)
    given = normal(2, 3, 7, seed=2, dtype=gates)
    out, grad_x, grad_gates = step(multi_excite, [x, given.to(wide)], [g])
    for _ in range(3):
        found = step(multi_excite, [x, given], [g])
        for y, z in zip(found, (out, grad_x, grad_gates.to(gates)), strict=True):
            assert y.dtype == z.dtype
            assert y.equal(z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_strides_of_16_bit_gates_do_not_matter(backend: str, dtype: torch.dtype) -> None:
    x, g = normal(2, 5, 3, 4, seed=1, dtype=dtype), normal(2, 3, 5, 3, 4, seed=3, dtype=dtype)
    gates = normal(2, 3, 5, seed=2, dtype=dtype)
    wanted = step(multi_excite, [x, gates], [g])
    for _ in range(3):
        found = step(multi_excite, [x, gates.mT.contiguous().mT], [g])
        assert all(y.equal(z) for y, z in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gates_dtype", [torch.float32, None])
@pytest.mark.parametrize(("batch", "excitations"), [(0, 3), (2, 0)])
def test_no_gates(
    backend: str,
    batch: int,
    excitations: int,
    gates_dtype: torch.dtype | None,
    dtype: torch.dtype,
) -> None:
    x = torch.ones(batch, 4, 3, 3, dtype=dtype)
    gates = torch.ones(batch, excitations, 4, dtype=gates_dtype or dtype)
    g = torch.ones(batch, excitations, 4, 3, 3, dtype=dtype)
    for _ in range(3):
        out, grad_x, grad_gates = step(multi_excite, [x, gates], [g])
        assert (out.dtype, out.shape) == (g.dtype, g.shape)
        assert grad_x.equal(torch.zeros_like(x))
        assert grad_x.dtype == dtype
        assert (grad_gates.dtype, grad_gates.shape) == (gates.dtype, gates.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    # the second has more channels than a strip of the C++ kernels' backward pass
    [(3, 24, 3, 5), (2, 600, 2, 3), (2, 10, 8, 6), (2, 5, 1, 7), (2, 5, 7, 1)],
)
def test_memory_layouts(backend: str, layout: str, shape: tuple[int, ...]) -> None:
    x = features("dominant", *shape[:2], shape[2] * shape[3]).view(shape)
    gates = normal(shape[0], 3, shape[1], seed=2)
    check_layout(JUDGE, multi_excite, layout, [x, gates])
    x = laid_out(x, layout)
    out = multi_excite(x, gates)
    for b in range(shape[0]):  # to the bit: it is one multiplication
        for p in range(3):
            assert out[b, p].equal(x[b] * gates[b, p, :, None, None])
            if layout in ("contiguous", "channels_last"):
                assert out[b, p].stride() == x[b].stride()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_gradient(backend: str, layout: str) -> None:
    x, gates = features("dominant", 2, 8, 20).unflatten(2, (4, 5)), normal(2, 3, 8, seed=2)
    g = normal(2, 3, 8, 4, 5, seed=3)
    wanted = step(multi_excite, [x, gates], [g])
    for memory in (torch.contiguous_format, torch.channels_last):
        laid = torch.stack([laid_out(g[:, p], layout) for p in range(3)], 1)
        if layout == "expanded":
            laid = laid[:1].expand(2, 3, 8, 4, 5)
            wanted = step(multi_excite, [x, gates], [laid.contiguous()])
        found = step(multi_excite, [x.contiguous(memory_format=memory), gates], [laid])
        assert all(err(y, z) <= 1e-6 for y, z in zip(found, wanted, strict=True))


X = torch.ones(2, 8, 3, 3)


@pytest.mark.parametrize(
    ("x", "gates", "error", "message"),
    [
        (X[0], X[0], ValueError, r"x has shape \(8, 3, 3\); expected \(B, D, H"),
        (X, torch.ones(2, 8), ValueError, r"gates has shape \(2, 8\); expected \(B, P, D\)"),
        (X, torch.ones(3, 4, 8), ValueError, r"= \(2, 4, 8\)"),
        (X, torch.ones(2, 4, 8).int(), TypeError, "gates has dtype"),
    ],
)
def test_wrong_input(x, gates, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.multi_excite: .*" + message):
        multi_excite(x, gates)
