"""The modules compute what their papers' formulas say, under the names of their checkpoints."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from harness import err, features
from torch import Tensor, nn

import ccdn_ops
from ccdn_ops import reference
from ccdn_ops.nn import CTM, COCSLoss, ISqrtCovPool, SecondOrderAttention, SqueezeExcite
from ccdn_ops.ops.dual_squeeze.reference import newton_schulz

D = 12


def maps(dtype: torch.dtype = torch.float64, height: int = 5, width: int = 6) -> Tensor:
    return features("dominant", 3, D, height * width, dtype=dtype).unflatten(2, (height, width))


def root(x: Tensor, iterations: int) -> Tensor:
    """The covariance of x (B, D, H, W) and its square root, literally."""
    centred = x.flatten(2) - x.flatten(2).mean(2, keepdim=True)
    covariance = centred @ centred.mT / centred.shape[2]
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return trace.sqrt() * newton_schulz(covariance / trace, iterations)


def bottleneck(squeezed: Tensor, state: dict[str, Tensor], first: str, last: str) -> Tensor:
    hidden = squeezed @ state[f"{first}.weight"].flatten(1).T + state[f"{first}.bias"]
    return hidden.relu() @ state[f"{last}.weight"].flatten(1).T + state[f"{last}.bias"]


def check(module: nn.Module, formula: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Value and gradient of x and of the weights, in float64."""
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = module(leaf), formula(other)
    assert found.shape == wanted.shape
    assert err(found.detach(), wanted.detach()) < 1e-12
    g = torch.randn_like(wanted)
    weights = [p for p in module.parameters() if p.requires_grad]
    grads = zip(
        torch.autograd.grad(found, [leaf, *weights], g),
        torch.autograd.grad(wanted, [other, *weights], g),
        strict=True,
    )
    assert all(err(a, b) < 1e-10 for a, b in grads)


def test_squeeze_excite() -> None:
    torch.manual_seed(0)
    module = SqueezeExcite(D, reduction=4).double()
    assert list(module.state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert module.fc1.weight.shape == (3, D, 1, 1)
    state = dict(module.named_parameters())
    check(
        module,
        lambda x: x * bottleneck(x.mean((2, 3)), state, "fc1", "fc2").sigmoid()[..., None, None],
        maps(),
    )


def test_squeeze_excite_of_second_order() -> None:
    torch.manual_seed(0)
    plain = SqueezeExcite(D, reduction=4).double()
    module = SqueezeExcite(D, reduction=4, second_order=True, iterations=3).double()
    found = module.load_state_dict(plain.state_dict(), strict=False)
    assert found.missing_keys == [
        "second.fc1.weight",
        "second.fc1.bias",
        "second.fc2.weight",
        "second.fc2.bias",
    ]
    assert not found.unexpected_keys
    x = maps()
    assert err(module(x).detach(), plain(x).detach()) < 1e-12
    nn.init.normal_(module.second.fc2.weight)
    nn.init.normal_(module.second.fc2.bias)
    state = dict(module.named_parameters())

    def formula(x: Tensor) -> Tensor:
        logits = bottleneck(x.mean((2, 3)), state, "fc1", "fc2")
        logits = logits + bottleneck(
            reference.dual_squeeze(x, 3)[1], state, "second.fc1", "second.fc2"
        )
        return x * logits.sigmoid()[..., None, None]

    check(module, formula, x)


def test_squeeze_excite_with_other_activations() -> None:
    torch.manual_seed(0)
    module = SqueezeExcite(D, 4, nn.SiLU, nn.Hardsigmoid).double()

    def formula(x: Tensor) -> Tensor:
        hidden = nn.functional.silu(module.fc1(x.mean((2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(module.fc2(hidden))

    check(module, formula, maps())


def test_second_order_attention() -> None:
    torch.manual_seed(0)
    module = SecondOrderAttention(D, reduction=4).double()
    assert list(module.state_dict()) == [
        "conv_du.0.weight",
        "conv_du.0.bias",
        "conv_du.2.weight",
        "conv_du.2.bias",
    ]
    state = dict(module.named_parameters())

    def formula(x: Tensor) -> Tensor:
        logits = bottleneck(root(x, 5).mean(2), state, "conv_du.0", "conv_du.2")
        return x * logits.sigmoid()[..., None, None]

    check(module, formula, maps())


@pytest.mark.parametrize(("height", "width"), [(5, 9), (9, 5), (9, 9), (6, 6), (5, 5)])
def test_the_window_of_second_order_attention(height: int, width: int) -> None:
    torch.manual_seed(0)
    module = SecondOrderAttention(D, window=6).double()
    x = maps(height=height, width=width)
    top, left = max(height - 6, 0) // 2, max(width - 6, 0) // 2
    inside = x[:, :, top : top + 6, left : left + 6]
    gate = module.conv_du(root(inside, 5).mean(2)[..., None, None])
    assert err(module(x).detach(), (x * gate).detach()) < 1e-12


@pytest.mark.parametrize("iterations", [1, 3, 5])
@pytest.mark.parametrize("output", ["triu", "mean", "matrix"])
def test_isqrt_cov_pool(output: str, iterations: int) -> None:
    module = ISqrtCovPool(iterations, output)  # type: ignore[arg-type]
    assert not module.state_dict()
    i, j = torch.triu_indices(D, D)
    last: dict[str, Callable[[Tensor], Tensor]] = {
        "triu": lambda y: y[:, i, j],
        "mean": lambda y: y.mean(2),
        "matrix": lambda y: y,
    }
    check(module, lambda x: last[output](root(x, iterations)), maps())
    x = maps()
    assert module(x.flatten(2)).equal(module(x))


@pytest.mark.parametrize("output", ["triu", "mean", "matrix"])
def test_isqrt_cov_pool_of_constant_samples(output: str) -> None:
    x = maps()
    x[1] = 3.0
    x.requires_grad_()
    out = ISqrtCovPool(5, output)(x)  # type: ignore[arg-type]
    assert not out[1].any()
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert not x.grad[1].any()


def test_cocs_loss_weighs_its_levels() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(6, 4, d, dtype=torch.float64) for d in (5, 7, 3)]
    losses = ccdn_ops.cocs_loss(levels)
    assert COCSLoss()(levels).allclose(0.025 * losses[0] + 0.01 * losses[1] + 0.05 * losses[2])
    assert COCSLoss([2.0])(levels[0]).allclose(2 * losses[0])
    assert not COCSLoss().state_dict()
    with pytest.raises(ValueError, match="expected 3 levels, found 2"):
        COCSLoss()(levels[:2])
    for gammas in ([], [-1.0], [float("nan")]):
        with pytest.raises(ValueError, match="gammas must be"):
            COCSLoss(gammas)


def test_cocs_loss_of_a_ctm() -> None:
    torch.manual_seed(0)
    module = CTM(D, excitations=3)
    excited, pooled = module(maps(torch.float32))
    assert excited.shape == (3, 3, D, 5, 6)
    COCSLoss([0.5])([pooled]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


MODULES = [
    CTM(D),
    COCSLoss([1.0]),
    SqueezeExcite(D),
    SqueezeExcite(D, second_order=True),
    SecondOrderAttention(D, window=100),
    ISqrtCovPool(3, "mean"),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_a_module_can_be_copied_and_printed(module: nn.Module) -> None:
    x = maps(torch.float32) if not isinstance(module, COCSLoss) else torch.randn(3, 2, D)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        found, wanted = other(x), module(x)
        found, wanted = (o[0] if isinstance(o, tuple) else o for o in (found, wanted))
        assert found.equal(wanted)
    assert type(module).__name__ in repr(module)


@pytest.mark.parametrize("module", MODULES[2:], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(module: nn.Module, dtype: torch.dtype) -> None:
    x = maps(torch.float32)
    wanted = module(x).detach()
    with torch.autocast("cpu", dtype):
        found = module(x.to(dtype))
    assert found.dtype == dtype
    assert err(found.detach(), wanted) < 0.05


def test_wrong_arguments() -> None:
    for make in (SqueezeExcite, SecondOrderAttention):
        with pytest.raises(ValueError, match="channels is 0; expected an int from 1 on"):
            make(0)
        with pytest.raises(ValueError, match="iterations is 0"):
            make(4, iterations=0)
        with pytest.raises(ValueError, match=r"expected \(B, D, H, W\)"):
            make(4)(torch.randn(2, 4, 6))
    with pytest.raises(ValueError, match="window is 0; expected an int from 1 on"):
        SecondOrderAttention(4, window=0)
    with pytest.raises(ValueError, match="output must be"):
        ISqrtCovPool(output="vector")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations is 11"):
        ISqrtCovPool(11)


@pytest.mark.parametrize("orders", [1, 2])
def test_a_ctm_of_meta_tensors(orders: int) -> None:
    module = CTM(8, orders=orders).to("meta")
    excited, pooled = module(torch.empty(2, 8, 3, 5, device="meta"))
    assert excited.shape == (2, 4, 8, 3, 5)
    assert ccdn_ops.cocs_loss(pooled).shape == ()


def test_a_ctm_refuses_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="channels is 0; expected an int from 1 on"):
        CTM(0)
    with pytest.raises(ValueError, match="orders must be 1 or 2, found 3"):
        CTM(8, orders=3)
    with pytest.raises(ValueError, match="iterations is 11; expected an int from 1 to 10"):
        CTM(8, iterations=11)
