"""excitation_gates, multi_excite and ctm against the paper's equations, written out with loops."""

from __future__ import annotations

import pytest
import torch
from harness import err, features
from torch import Tensor

from ccdn_ops import cocs_loss, ctm, dual_squeeze, excitation_gates, multi_excite
from ccdn_ops.nn import CTM


def weights(
    excitations: int, orders: int, channels: int, hidden: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    random = torch.Generator().manual_seed(4)
    p, o, d, r = excitations, orders, channels, hidden
    shapes = [(p, o, r, d), (p, o, r), (p, o, d, r), (p, o, d)]
    return [torch.randn(s, generator=random, dtype=torch.float64).to(dtype) for s in shapes]


def gates_by_loops(squeezes: list[Tensor], w: list[Tensor]) -> Tensor:
    """Eq. 3 for each p and order, and the sum over the orders of eq. 4."""
    out = []
    for p in range(w[0].shape[0]):
        total = torch.zeros_like(squeezes[0])
        for o, k in enumerate(squeezes):
            hidden = torch.relu(k @ w[0][p, o].T + w[1][p, o])
            total = total + torch.sigmoid(hidden @ w[2][p, o].T + w[3][p, o])
        out.append(total)
    return torch.stack(out, 1)


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize(("batch", "p", "d", "r"), [(3, 4, 8, 2), (1, 1, 5, 1), (0, 2, 4, 1)])
def test_gates(orders: int, batch: int, p: int, d: int, r: int) -> None:
    w = [t.requires_grad_() for t in weights(p, orders, d, r)]
    squeezes = [torch.randn(batch, d, dtype=torch.float64).requires_grad_() for _ in range(orders)]
    found = excitation_gates(squeezes[0], squeezes[1] if orders == 2 else None, *w)
    wanted = gates_by_loops(squeezes, w)
    assert found.shape == (batch, p, d)
    assert err(found.detach(), wanted.detach()) < 1e-14
    g = torch.randn_like(found)
    grads = zip(
        torch.autograd.grad(found, [*squeezes, *w], g),
        torch.autograd.grad(wanted, [*squeezes, *w], g),
        strict=True,
    )
    assert all(err(a, b) < 1e-13 for a, b in grads)


def test_multi_excite() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    gates = torch.randn(2, 6, 3, requires_grad=True)
    out = multi_excite(x, gates)
    assert out.shape == (2, 6, 3, 4, 5)
    for b in range(2):
        for p in range(6):
            assert out[b, p].equal(x[b] * gates[b, p, :, None, None])
    g = torch.randn_like(out)
    dx, dgates = torch.autograd.grad(out, (x, gates), g)
    assert err(dx, (g * gates[..., None, None]).sum(1)) < 1e-6
    assert err(dgates, (g * x.unsqueeze(1)).sum((3, 4))) < 1e-6


@pytest.mark.parametrize("orders", [1, 2])
def test_ctm(orders: int) -> None:
    x = features("dominant", 2, 8, 20, dtype=torch.float64).view(2, 8, 4, 5).requires_grad_()
    w = [t.requires_grad_() for t in weights(3, orders, 8, 2)]
    excited, pooled = ctm(x, w)
    first, second = dual_squeeze(x)
    gates = gates_by_loops([first, second][:orders], w)
    assert excited.shape == (2, 3, 8, 4, 5)
    assert err(excited.detach(), (gates[..., None, None] * x.unsqueeze(1)).detach()) < 1e-14
    # pooled is the mean of the maps, though it never looks at them; in value and in gradient.
    means = excited.mean((3, 4))
    assert err(pooled.detach(), means.detach()) < 1e-13
    g = torch.randn_like(means)
    from_pooled = torch.autograd.grad(pooled, [x, *w], g, retain_graph=True)
    from_maps = torch.autograd.grad(means, [x, *w], g)
    assert all(err(a, b) < 1e-12 for a, b in zip(from_pooled, from_maps, strict=True))
    x, w = x.detach().requires_grad_(), [t.detach().requires_grad_() for t in w]
    assert torch.autograd.gradcheck(lambda x, *w: ctm(x, w, 3), (x, *w), fast_mode=True)


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_and_autocast(orders: int, dtype: torch.dtype) -> None:
    x = features("large", 2, 8, 20, dtype=dtype).view(2, 8, 4, 5).requires_grad_()
    w = [0.1 * t for t in weights(3, orders, 8, 2, torch.float32)]
    w = [t.requires_grad_() for t in w]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        excited, pooled = ctm(x, w)
    plain_excited, plain_pooled = ctm(x, w)
    assert excited.dtype == pooled.dtype == dtype
    assert excited.equal(plain_excited)
    assert pooled.equal(plain_pooled)
    grads = torch.autograd.grad(excited.float().sum() + pooled.float().sum(), [x, *w])
    assert [g.dtype for g in grads] == [dtype] + 4 * [torch.float32]
    assert all(g.isfinite().all() for g in grads)
    wide_excited, _ = ctm(x.double(), [t.double() for t in w])
    assert err(excited.detach(), wide_excited.detach()) < 4 * torch.finfo(dtype).eps


def test_ctm_compiles() -> None:
    x = features("dominant", 2, 8, 20).view(2, 8, 4, 5)
    w = weights(3, 2, 8, 2, torch.float32)
    compiled = torch.compile(ctm, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(compiled(x, w), ctm(x, w), strict=True):
        assert err(found, wanted) < 1e-6


X = torch.ones(2, 8, 3, 3)
K = torch.ones(2, 8)
W = weights(4, 2, 8, 2, torch.float32)
W1 = weights(4, 1, 8, 2, torch.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: excitation_gates(K[0], K, *W), ValueError, r"first has shape \(8,\); expected"),
        (lambda: excitation_gates(K, K[:1], *W), ValueError, r"second has shape \(1, 8\); exp"),
        (lambda: excitation_gates(K, None, *W), ValueError, "second is missing .* O = 2"),
        (lambda: excitation_gates(K, K, *W1), ValueError, "second is given .* O = 1"),
        (lambda: excitation_gates(K, K.double(), *W), TypeError, "second has dtype torch.float64"),
        (lambda: excitation_gates(K.int(), K, *W), TypeError, "first has dtype torch.int32"),
        (lambda: excitation_gates(K, K, W[0][0], *W[1:]), ValueError, r"expected \(P, O, R, D\)"),
        (lambda: excitation_gates(K[:, 1:], K[:, 1:], *W), ValueError, r"\(4, 2, 2, 7\)"),
        (lambda: excitation_gates(K, K, W[0], W[3], *W[2:]), ValueError, "reduce_bias has shape"),
        (lambda: excitation_gates(K, K, *W[:2], W[0], W[3]), ValueError, "expand_weight has sha"),
        (lambda: excitation_gates(K, K, *W[:3], W[1]), ValueError, "expand_bias has shape"),
        (
            lambda: excitation_gates(K, K, *W[:3], W[3].to("meta")),
            ValueError,
            "one device, found .*expand_bias on meta",
        ),
        (lambda: multi_excite(X[0], K), ValueError, r"x has shape \(8, 3, 3\); expected \(B, D, H"),
        (lambda: multi_excite(X, K), ValueError, r"gates has shape \(2, 8\); expected \(B, P, D\)"),
        (lambda: multi_excite(X, torch.ones(3, 4, 8)), ValueError, r"= \(2, 4, 8\)"),
        (lambda: multi_excite(X, torch.ones(2, 4, 8).int()), TypeError, "gates has dtype"),
        (lambda: ctm(X[0], W), ValueError, r"x has shape \(8, 3, 3\); expected \(B, D, H, W\)"),
        (lambda: ctm(X, W[:3]), ValueError, "weights has 3 tensors; expected 4"),
        (lambda: ctm(X, W, 11), ValueError, "iterations is 11"),
        (lambda: ctm(X.long(), W), TypeError, "x has dtype torch.int64"),
    ],
)
def test_wrong_input(call, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.\w+: .*" + message):
        call()


@pytest.mark.parametrize("orders", [1, 2])
def test_meta_tensors(orders: int) -> None:
    module = CTM(8, orders=orders).to("meta")
    excited, pooled = module(torch.empty(2, 8, 3, 5, device="meta"))
    assert excited.shape == (2, 4, 8, 3, 5)
    assert cocs_loss(pooled).shape == ()


def test_module_refuses_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0, 4, 4"):
        CTM(0)
    with pytest.raises(ValueError, match="orders must be 1 or 2, found 3"):
        CTM(8, orders=3)
    with pytest.raises(ValueError, match="iterations is 11; expected an int from 1 to 10"):
        CTM(8, iterations=11)
