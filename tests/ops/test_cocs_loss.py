"""cocs_loss against eqs. 5 and 6 with the products over all pairs of samples written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import err
from torch import Tensor

from ccdn_ops import cocs_loss


def literal(features: Tensor) -> Tensor:
    """Eq. 5: Q_pp' is the sum of all entries of F_p^T F_p' over B^2. Eq. 6: L."""
    batch, excitations, _ = features.shape
    unit = torch.nn.functional.normalize(features, dim=2)
    q = features.new_zeros(excitations, excitations)
    for i in range(excitations):
        for j in range(excitations):
            q[i, j] = (unit[:, i] @ unit[:, j].T).sum() / batch**2
    own = q.diagonal().square().sum()
    return (q.square().sum() - own) / own


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5).to(dtype)


@pytest.mark.parametrize("shape", [(5, 4, 7), (1, 4, 7), (6, 2, 1), (3, 9, 40)])
def test_the_paper(shape: tuple[int, ...]) -> None:
    f = random(*shape).requires_grad_()
    found, wanted = cocs_loss(f), literal(f)
    assert found.shape == ()
    assert err(found.detach(), wanted.detach()) < 1e-12
    (a,), (b,) = torch.autograd.grad(found, f), torch.autograd.grad(wanted, f)
    # Against one-dimensional features the normalisation leaves no gradient.
    assert err(a, b) < 1e-11 if shape[2] > 1 else a.abs().max() < 1e-12
    assert torch.autograd.gradcheck(cocs_loss, f)


def test_levels() -> None:
    levels = [random(5, 4, 7), random(5, 4, 3, seed=1), random(5, 2, 9, seed=2)]
    losses = cocs_loss(levels)
    assert losses.shape == (3,)
    for level, loss in zip(levels, losses, strict=True):
        assert loss.equal(cocs_loss(level))
    assert cocs_loss(tuple(levels[:1])).shape == (1,)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_magnitude_does_not_matter(scale: float) -> None:
    f = random(5, 4, 7, dtype=torch.float32)
    assert err(cocs_loss(scale * f), literal(f.double())) < 1e-6


def value_and_gradient(f: Tensor) -> tuple[Tensor, Tensor]:
    f = f.clone().requires_grad_()
    loss = cocs_loss(f)
    (grad,) = torch.autograd.grad(loss, f)
    return loss.detach(), grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["one excitation", "all zero", "empty batch", "cancelling"])
def test_zero_without_gradient(case: str, dtype: torch.dtype) -> None:
    f = random(4, 3, 5, dtype=dtype)
    if case == "one excitation":
        f = f[:, :1]
    elif case == "all zero":
        f = torch.zeros_like(f)
    elif case == "empty batch":
        f = f[:0]
    else:  # the unit vectors of the samples sum to nothing: diag Q = 0
        f = torch.cat([f[:1], -f[:1]])
    loss, grad = value_and_gradient(f)
    assert loss.dtype == grad.dtype == dtype
    assert loss == 0
    assert (grad == 0).all()


def test_zero_vectors_among_others() -> None:
    f = random(4, 3, 5)
    f[1] = 0
    f[2, 1] = 0
    loss, grad = value_and_gradient(f)
    assert err(loss, literal(f)) < 1e-12
    assert grad.isfinite().all()
    assert (grad[1] == 0).all()
    assert (grad[2, 1] == 0).all()
    assert (grad[0] != 0).any()


def test_nearly_cancelling_features() -> None:
    # S of about 1e-20: its fourth powers are no float32 numbers, and L is none the worse.
    f = torch.eye(3, 5, dtype=torch.float32).unsqueeze(0)
    f = torch.cat([f, -f, f * 0 + 1e-20])
    loss, grad = value_and_gradient(f)
    assert loss.isfinite()
    assert loss > 0
    assert grad.isfinite().all()


def test_autocast() -> None:
    f = random(5, 4, 7, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cocs_loss(f).equal(cocs_loss(f.clone()))
        inside = cocs_loss(f)
    assert inside.dtype == torch.float32
    assert inside.equal(cocs_loss(f))


def test_compiles() -> None:
    f = random(5, 4, 7, dtype=torch.float32)
    compiled = torch.compile(cocs_loss, fullgraph=True, backend="aot_eager")
    assert err(compiled([f, f]), cocs_loss([f, f])) < 1e-6


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


# Two processes ------------------------------------------------------------------------------------

SIZES = (3, 5)  # samples of each process


def levels_of_all() -> list[Tensor]:
    return [random(sum(SIZES), 4, 7), random(sum(SIZES), 3, 6, seed=1)]


def process(rank: int, rendezvous: str, out: str) -> None:
    store = dist.FileStore(rendezvous, len(SIZES))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(SIZES))
    begin = sum(SIZES[:rank])
    levels = [f[begin : begin + SIZES[rank]].clone().requires_grad_() for f in levels_of_all()]
    losses = cocs_loss(levels, group=dist.group.WORLD)
    grads = torch.autograd.grad((losses * torch.tensor([0.3, 2.0])).sum(), levels)
    alone = cocs_loss(levels)
    torch.save([losses.detach(), alone.detach(), *grads], f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_global_batch(tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=process, args=(rank, str(tmp_path / "store"), str(tmp_path)))
        for rank in range(len(SIZES))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0

    levels = [f.requires_grad_() for f in levels_of_all()]
    losses = cocs_loss(levels)
    wanted = torch.autograd.grad((losses * torch.tensor([0.3, 2.0])).sum(), levels)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(SIZES))]
    for found, alone, *_ in results:
        assert err(found, losses.detach()) < 1e-13
        assert err(alone, losses.detach()) > 1e-3
    # What DistributedDataParallel does: the average over the processes. Each holds its own samples
    # only, so its share of the average is its gradient over W.
    for level, grad in enumerate(wanted):
        shares = torch.cat([result[2 + level] for result in results]) / len(SIZES)
        assert err(shares, grad) < 1e-12
