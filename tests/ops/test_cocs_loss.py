"""cocs_loss on every backend that serves CPU tensors: the numbers and the edges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import EXACT, PERMUTATIONS, err
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ccdn_ops import cocs_loss, reference

KINDS = ("offset", "noise", "dominant", "large", "rectified", "tiny")
SHAPES = [(5, 4, 7), (1, 4, 65), (65, 2, 1), (3, 1, 40), (200, 2, 16)]
LARGE = [(64, 4, 256), (129, 3, 129), (7, 9, 513)]

Loss = Callable[[Tensor], Tensor]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5).to(dtype)


def features(kind: str, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    noise = random(*shape, seed=seed)
    if kind == "noise":
        noise = noise - 0.5
    elif kind == "dominant":  # what excitations that have learned the same look like
        noise = 0.1 * noise + 3 * random(1, 1, shape[2], seed=seed + 1)
    elif kind == "large":
        noise = 1e3 * noise
    elif kind == "rectified":
        noise = (noise - 0.5).relu()
    elif kind == "tiny":
        noise = 1e-4 * noise
    return noise.to(dtype)


def value_and_gradient(f: Tensor, loss: Loss = cocs_loss) -> tuple[Tensor, Tensor]:
    leaf = f.detach().requires_grad_()
    value = loss(leaf)
    (grad,) = torch.autograd.grad(value, leaf)
    return value.detach(), grad


def reference_errors(f: Tensor, exact: tuple[Tensor, Tensor]) -> list[float]:
    """The largest errors of the reference over permutations of samples and channels."""
    generator = torch.Generator().manual_seed(2)
    worst = [0.0, 0.0]
    for draw in range(PERMUTATIONS + 1):
        b = torch.randperm(f.shape[0], generator=generator)
        d = torch.randperm(f.shape[2], generator=generator)
        if draw == 0:
            b, d = b.sort().values, d.sort().values
        value, grad = value_and_gradient(f[b][:, :, d], reference.cocs_loss)
        worst[0] = max(worst[0], err(value, exact[0]))
        worst[1] = max(worst[1], err(grad, exact[1][b][:, :, d]))
    return worst


def check_exact(f: Tensor, what: str = "") -> None:
    """Value and gradient within twice the reference's own errors, or the floor of the dtype."""
    exact = value_and_gradient(f.double(), reference.cocs_loss)
    found = value_and_gradient(f)
    eps = torch.finfo(f.dtype).eps
    floor = {torch.float32: EXACT, torch.float64: 64 * eps}.get(f.dtype, 2 * eps)
    errors = [err(y, y64) for y, y64 in zip(found, exact, strict=True)]
    if f.shape[2] == 1:  # a unit vector of one channel cannot turn: its gradient is rounding
        assert (found[1].double() * f).abs().max() <= floor
        errors[1] = 0.0
    assert all(y.dtype == f.dtype and y.isfinite().all() for y in found)
    if max(errors) <= floor:
        return
    allowed = [max(2 * own, floor) for own in reference_errors(f, exact)]
    for name, error, most in zip(("value", "gradient"), errors, allowed, strict=True):
        assert error <= most, f"{name} of {what}: error {error:.3g} > {most:.3g}"


def test_the_reference_is_the_paper() -> None:
    f = random(3, 4, 5)
    unit = [[v / v.norm() for v in sample] for sample in f]
    q = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            q[i, j] = sum(unit[a][i] @ unit[b][j] for a in range(3) for b in range(3)) / 3**2
    own = q.diagonal().norm() ** 2
    assert err(reference.cocs_loss(f), (q.norm() ** 2 - own) / own) < 1e-14
    f.requires_grad_()
    assert torch.autograd.gradcheck(reference.cocs_loss, f)
    assert torch.autograd.gradgradcheck(reference.cocs_loss, f)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_exact(backend: str, kind: str, shape: tuple[int, ...]) -> None:
    check_exact(features(kind, *shape), f"{kind} {shape}")


@pytest.mark.parametrize("kind", ["offset", "dominant"])
@pytest.mark.parametrize("shape", LARGE)
def test_fp32_exact_large(kind: str, shape: tuple[int, ...]) -> None:
    check_exact(features(kind, *shape), f"{kind} {shape}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["offset", "dominant", "large"])
@pytest.mark.parametrize("shape", [(5, 4, 7), (65, 3, 129)])
def test_other_dtypes(backend: str, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_exact(features(kind, *shape, dtype=dtype), f"{kind} {shape} {dtype}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 70),
    excitations=st.integers(1, 4),
    channels=st.integers(1, 70),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 9),
)
def test_any_shape(batch: int, excitations: int, channels: int, kind: str, seed: int) -> None:
    f = features(kind, batch, excitations, channels, seed=seed)
    check_exact(f, f"{kind} {batch} x {excitations} x {channels}, seed {seed}")


@pytest.mark.parametrize("shape", [(5, 4, 7), (1, 4, 7), (6, 2, 1), (3, 1, 4), (66, 2, 9)])
def test_gradcheck(backend: str, shape: tuple[int, ...]) -> None:
    assert torch.autograd.gradcheck(cocs_loss, random(*shape).requires_grad_())


def test_levels(backend: str) -> None:
    levels = [random(70, 4, 7), random(5, 4, 300, seed=1), random(9, 2, 9, seed=2)]
    levels = [level.float().requires_grad_() for level in levels]
    losses = cocs_loss(levels)
    assert losses.shape == (3,)
    weights = torch.tensor([0.3, -2.0, 1e-3])
    grads = torch.autograd.grad((losses * weights).sum(), levels)
    for level, loss, weight, grad in zip(levels, losses, weights, grads, strict=True):
        value, alone = value_and_gradient(level)
        assert loss.equal(value)
        assert err(grad, weight * alone) < 1e-6
    assert cocs_loss(tuple(levels[:1])).shape == (1,)
    (only,) = torch.autograd.grad(cocs_loss(levels)[1], levels[1])
    assert only.equal(value_and_gradient(levels[1])[1])
    _, frozen, _ = (level.detach() for level in levels)
    (rest,) = torch.autograd.grad(cocs_loss([levels[0], frozen]).sum(), levels[0])
    assert rest.equal(value_and_gradient(levels[0])[1])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_magnitude_does_not_matter(backend: str, scale: float) -> None:
    f = random(5, 4, 7, dtype=torch.float32)
    assert err(cocs_loss(scale * f), reference.cocs_loss(f.double())) < 1e-6


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "permuted", "thin"])
def test_memory_layouts(backend: str, layout: str) -> None:
    f = random(6, 4, 7, dtype=torch.float32)
    if layout == "transposed":
        f = f.mT.contiguous().mT
    elif layout == "sliced":
        f = random(12, 4, 15, dtype=torch.float32)[::2, :, 1::2]
    elif layout == "expanded":
        f = f[:1].expand(6, 4, 7)
    elif layout == "permuted":
        f = f.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    else:
        f = f[:, :, 3:4]
    value, grad = value_and_gradient(f)
    plain_value, plain_grad = value_and_gradient(f.contiguous())
    if backend == "cpu":
        assert value.equal(plain_value)
        assert grad.equal(plain_grad)
    assert err(value, plain_value) < 1e-6
    assert err(grad, plain_grad) < 1e-6 or f.shape[2] == 1
    assert grad.stride() == torch.empty_like(f).stride()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_runs_are_bit_equal(backend: str, threads: int) -> None:
    f = random(300, 4, 65, dtype=torch.float32)  # several blocks of samples
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = value_and_gradient(f.clone())
    finally:
        torch.set_num_threads(before)
    again = value_and_gradient(f.clone())
    if backend == "cpu" or threads == before:
        assert all(a.equal(b) for a, b in zip(found, again, strict=True))


# Edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["one excitation", "all zero", "empty batch", "cancelling"])
def test_zero_without_gradient(backend: str, case: str, dtype: torch.dtype) -> None:
    f = random(4, 3, 5, dtype=dtype)
    if case == "one excitation":
        f = f[:, :1]
    elif case == "all zero":
        f = torch.zeros_like(f)
    elif case == "empty batch":
        f = f[:0]
    else:  # the unit vectors of the samples sum to nothing: diag Q = 0
        f = torch.cat([f[:1], -f[:1]])
    for loss in (cocs_loss, reference.cocs_loss):
        value, grad = value_and_gradient(f, loss)
        assert value.dtype == grad.dtype == dtype
        assert value == 0
        assert (grad == 0).all()
        assert grad.shape == f.shape


def test_an_empty_level_among_others(backend: str) -> None:
    f = random(4, 3, 5)
    losses = cocs_loss([f, f[:0], f])
    assert losses[1] == 0
    assert losses[0].equal(cocs_loss(f))
    assert losses[2].equal(losses[0])


def test_zero_vectors_among_others(backend: str) -> None:
    f = random(4, 3, 5)
    f[1] = 0
    f[2, 1] = 0
    value, grad = value_and_gradient(f)
    wanted, gradient = value_and_gradient(f, reference.cocs_loss)
    assert err(value, wanted) < 1e-12
    assert err(grad, gradient) < 1e-12
    assert (grad[1] == 0).all()
    assert (grad[2, 1] == 0).all()
    assert (grad[0] != 0).any()


def test_nearly_cancelling_features(backend: str) -> None:
    # S of about 1e-20: its fourth powers underflow in float32, and L must still be exact.
    f = torch.eye(3, 5, dtype=torch.float32).unsqueeze(0)
    f = torch.cat([f, -f, f * 0 + 1e-32])
    value, grad = value_and_gradient(f)
    assert err(value, torch.tensor(2.0)) < 1e-6  # all of Q is one number: (9 - 3) / 3
    assert grad.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_level(backend: str, value: float) -> None:
    levels = [random(5, 4, 7, dtype=torch.float32, seed=seed) for seed in range(3)]
    clean = [level.clone().requires_grad_() for level in levels]
    levels[1][2, 3, 4] = value
    dirty = [level.requires_grad_() for level in levels]
    before, after = cocs_loss(clean), cocs_loss(dirty)
    assert after[1].isnan()
    assert before[::2].equal(after[::2])
    grads = torch.autograd.grad(before.sum(), clean), torch.autograd.grad(after.sum(), dirty)
    assert grads[1][1].isnan().all()  # the sums that every vector is compared with
    assert all(grads[0][i].equal(grads[1][i]) for i in (0, 2))


# Autograd, torch.func and torch.compile ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(backend: str, dtype: torch.dtype) -> None:
    levels = [random(5, 4, 7, dtype=dtype), random(3, 2, 9, dtype=dtype).mT.contiguous().mT]
    torch.library.opcheck(torch.ops.ccdn.cocs_loss.default, (levels,))
    losses, sums = torch.ops.ccdn.cocs_loss(levels)
    torch.library.opcheck(torch.ops.ccdn.cocs_loss_backward.default, (losses, levels, sums))


@pytest.mark.parametrize("zero", [slice(0, 1), slice(None)], ids=["one vector", "all"])
def test_zero_vectors_have_no_second_derivative(backend: str, zero: slice) -> None:
    f = random(5, 4, 7)
    f[zero] = 0
    f.requires_grad_()
    (grad,) = torch.autograd.grad(cocs_loss(f), f, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), f)
    assert (second[zero] == 0).all()
    assert second.isfinite().all()


def test_vmap(backend: str) -> None:
    f = random(3, 5, 4, 7, dtype=torch.float32)
    level = random(2, 3, 6, dtype=torch.float32)  # of every one the same

    def loss(f: Tensor) -> Tensor:
        return cocs_loss([f, level]).sum()

    found = torch.vmap(loss)(f), torch.vmap(torch.func.grad(loss))(f)
    for i, one in enumerate(f):
        value, grad = value_and_gradient(one, loss)
        assert found[0][i].equal(value)
        assert found[1][i].equal(grad)
    assert torch.vmap(cocs_loss, in_dims=2)(f.movedim(0, 2)).equal(torch.vmap(cocs_loss)(f))


def test_autocast(backend: str) -> None:
    f = random(5, 4, 7, dtype=torch.float32)
    plain = value_and_gradient(f)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value_and_gradient(f)
        literal = reference.cocs_loss(f)
    assert literal.dtype == torch.float32
    assert all(a.equal(b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("levels", [1, 3])
def test_compiles(backend: str, levels: int) -> None:
    f = [random(5, 4, 7 + i, dtype=torch.float32).requires_grad_() for i in range(levels)]
    compiled = torch.compile(cocs_loss, fullgraph=True, backend="aot_eager")
    found, wanted = compiled(f), cocs_loss(f)
    assert found.equal(wanted)
    grads = (torch.autograd.grad(y.sum(), f) for y in (found, wanted))
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


def test_meta_tensors() -> None:
    f = torch.empty(5, 4, 7, device="meta", requires_grad=True)
    loss = cocs_loss([f, f])
    assert loss.shape == (2,)
    assert torch.autograd.grad(loss.sum(), f)[0].shape == f.shape


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([], ValueError, "features is empty; expected at least one level"),
        (torch.ones(3, 4), ValueError, r"shape \(3, 4\); expected \(B, P, D\)"),
        (torch.ones(3, 0, 4), ValueError, r"shape \(3, 0, 4\); expected \(B, P, D\) with P, D >="),
        (torch.ones(3, 2, 4).int(), TypeError, "has dtype torch.int32; expected"),
        ([torch.ones(3, 2, 4), torch.ones(3, 2, 4).half()], ValueError, "level 1 .*float16"),
        ([torch.ones(3, 2, 4), None], TypeError, "level 1 of features is a NoneType"),
    ],
)
def test_wrong_input(features, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=r"ccdn_ops\.cocs_loss: .*" + message):
        cocs_loss(features)
