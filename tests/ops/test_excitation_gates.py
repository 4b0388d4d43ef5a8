"""excitation_gates on every backend that serves CPU tensors, and against eq. 3 in loops."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from harness import CHANNELS, KINDS, Case, Judge, bottlenecks, err, normal, squeezes, step
from torch import Tensor

from ccdn_ops import excitation_gates, reference

WEIGHTS = ["PORD", "POR", "PODR", "POD"]
JUDGES = {
    1: Judge(lambda k, *w: reference.excitation_gates(k, None, *w), ["BD", *WEIGHTS], ["BPD"]),
    2: Judge(reference.excitation_gates, ["BD", "BD", *WEIGHTS], ["BPD"]),
}
CALLS: dict[int, Any] = {
    1: lambda k, *w: excitation_gates(k, None, *w),
    2: excitation_gates,
}


@lru_cache(maxsize=64)
def case(
    kind: str,
    batch: int,
    channels: int,
    excitations: int = 3,
    orders: int = 2,
    dtype: torch.dtype = torch.float32,
    weights_dtype: torch.dtype | None = None,
) -> Case:
    kappa = squeezes(kind, batch, channels, dtype)[:orders]
    scale = 1e3 if kind == "large" else 1  # else the sigmoids are flat
    w = bottlenecks(excitations, orders, channels, scale=scale, dtype=weights_dtype or dtype)
    what = f"{kind} {batch} x {channels}, P = {excitations}, O = {orders}, {dtype}"
    return JUDGES[orders].case(what, [*kappa, *w])


def enough_networks(channels: int) -> int:
    """So many that every gradient has some dozens of numbers: the error of a handful is one draw
    of the rounding, which kernel and reference share in kind but not in sign."""
    return max(3, 64 // channels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", CHANNELS[:-1])
@pytest.mark.parametrize("batch", [1, 2, 17])
def test_fp32_exact(backend: str, kind: str, batch: int, channels: int) -> None:
    case(kind, batch, channels, enough_networks(channels)).check(excitation_gates)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("batch", [49, 1000])
def test_fp32_exact_full(backend: str, kind: str, batch: int, channels: int) -> None:
    case(kind, batch, channels, enough_networks(channels)).check(excitation_gates)


@pytest.mark.parametrize("excitations", [1, 2, 5])
@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize(("batch", "channels"), [(3, 5), (33, 40)])
def test_any_number_of_networks(
    backend: str, batch: int, channels: int, excitations: int, orders: int
) -> None:
    case("dominant", batch, channels, excitations, orders).check(CALLS[orders])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["dominant", "large", "nearly_constant"])
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (2, 65), (17, 33), (20, 150)])
def test_other_dtypes(
    backend: str, kind: str, batch: int, channels: int, dtype: torch.dtype
) -> None:
    case(kind, batch, channels, dtype=dtype).check(excitation_gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("orders", [1, 2])
def test_float32_weights_for_16_bit_squeezes(backend: str, orders: int, dtype: torch.dtype) -> None:
    case("dominant", 5, 33, 3, orders, dtype, torch.float32).check(CALLS[orders])


@pytest.mark.parametrize("dtypes", [[torch.bfloat16], [torch.float16], [torch.float32] * 3])
@pytest.mark.parametrize(("batch", "channels"), [(2, 21), (20, 150)])
def test_16_bit_weights_for_float32_squeezes(
    backend: str, batch: int, channels: int, dtypes: list[torch.dtype]
) -> None:
    """As if the weights had been widened before, whether all or only some of them have 16 bits."""
    kappa = squeezes("dominant", batch, channels)
    given = [torch.bfloat16, *dtypes] if len(dtypes) > 1 else dtypes * 4
    w = [t.to(d) for t, d in zip(bottlenecks(3, 2, channels), given, strict=True)]
    g = normal(batch, 3, channels, seed=8)
    gates, *found = step(excitation_gates, [*kappa, *w], [g])
    wanted, *widened = step(excitation_gates, [*kappa, *(t.float() for t in w)], [g])
    assert gates.equal(wanted)
    for y, z, t in zip(found, widened, [*kappa, *w], strict=True):
        assert y.dtype == t.dtype
        assert y.equal(z.to(t.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow_weights", [True, False])
@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize(("batch", "channels"), [(1, 64), (2, 21), (20, 150), (33, 40), (70, 5)])
def test_16_bits_are_rounded_once(
    backend: str, batch: int, channels: int, orders: int, narrow_weights: bool, dtype: torch.dtype
) -> None:
    """As if everything had been widened before and the results rounded once, every time: the first
    calls take another way than the later ones."""
    kappa = squeezes("dominant", batch, channels, dtype)[:orders]
    w = bottlenecks(3, orders, channels, dtype=dtype if narrow_weights else torch.float32)
    g = normal(batch, 3, channels, seed=8).to(dtype)
    wide = step(CALLS[orders], [t.float() for t in (*kappa, *w)], [g.float()])
    wanted = [z.to(t.dtype) for z, t in zip(wide, (g, *kappa, *w), strict=True)]
    for _ in range(3):
        found = step(CALLS[orders], [*kappa, *w], [g])
        for y, z in zip(found, wanted, strict=True):
            assert y.dtype == z.dtype
            assert y.equal(z)


def gates_by_loops(kappa: list[Tensor], w: list[Tensor]) -> Tensor:
    """Eq. 3 for each p and order, and the sum over the orders of eq. 4."""
    out = []
    for p in range(w[0].shape[0]):
        total = torch.zeros_like(kappa[0])
        for o, k in enumerate(kappa):
            hidden = torch.relu(k @ w[0][p, o].T + w[1][p, o])
            total = total + torch.sigmoid(hidden @ w[2][p, o].T + w[3][p, o])
        out.append(total)
    return torch.stack(out, 1)


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize(("batch", "p", "d"), [(3, 4, 8), (1, 1, 5), (0, 2, 4), (20, 3, 64)])
def test_eq_3(backend: str, orders: int, batch: int, p: int, d: int) -> None:
    kappa = [normal(batch, d, seed=o, dtype=torch.float64) for o in range(orders)]
    tensors = [*kappa, *bottlenecks(p, orders, d, dtype=torch.float64)]
    g = normal(batch, p, d, seed=8, dtype=torch.float64)
    found = step(CALLS[orders], tensors, [g])
    wanted = step(lambda *t: gates_by_loops(t[:orders], t[orders:]), tensors, [g])
    assert found[0].shape == (batch, p, d)
    assert all(err(a, b) < 1e-13 for a, b in zip(found, wanted, strict=True))


def test_strides_do_not_matter(backend: str) -> None:
    tensors = [*squeezes("dominant", 5, 12), *bottlenecks(3, 2, 12)]
    g = normal(5, 3, 12, seed=8)
    wanted = step(excitation_gates, tensors, [g])
    turned = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (*tensors, g)]
    spread = [torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0] for t in (*tensors, g)]
    for other in (turned, spread):
        assert not other[2].is_contiguous()
        found = step(excitation_gates, other[:-1], other[-1:])
        assert all(y.equal(z) for y, z in zip(found, wanted, strict=True))


@pytest.mark.parametrize("orders", [1, 2])
def test_gradcheck(orders: int) -> None:
    kappa = [normal(3, 6, seed=o, dtype=torch.float64) for o in range(orders)]
    tensors = [*kappa, *bottlenecks(2, orders, 6, dtype=torch.float64)]
    assert torch.autograd.gradcheck(CALLS[orders], [t.requires_grad_() for t in tensors])


K = torch.ones(2, 8)
W = bottlenecks(4, 2, 8)
W1 = bottlenecks(4, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((K[0], K, *W), ValueError, r"first has shape \(8,\); expected"),
        ((K, K[:1], *W), ValueError, r"second has shape \(1, 8\); exp"),
        ((K, None, *W), ValueError, "second is missing .* O = 2"),
        ((K, K, *W1), ValueError, "second is given .* O = 1"),
        ((K, K.double(), *W), TypeError, "second has dtype torch.float64"),
        ((K.int(), K, *W), TypeError, "first has dtype torch.int32"),
        ((K, K, W[0][0], *W[1:]), ValueError, r"expected \(P, O, R, D\)"),
        ((K[:, 1:], K[:, 1:], *W), ValueError, r"\(4, 2, 2, 7\)"),
        ((K, K, W[0], W[3], *W[2:]), ValueError, "reduce_bias has shape"),
        ((K, K, *W[:2], W[0], W[3]), ValueError, "expand_weight has sha"),
        ((K, K, *W[:3], W[1]), ValueError, "expand_bias has shape"),
        ((K, K, *W[:3], W[3].to("meta")), ValueError, "one device, found .*expand_bias on meta"),
    ],
)
def test_wrong_input(arguments, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.excitation_gates: .*" + message):
        excitation_gates(*arguments)
