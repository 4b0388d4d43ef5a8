"""cocs_loss over the samples of several processes, and under DistributedDataParallel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import err
from test_cocs_loss import random
from torch import Tensor

from ccdn_ops import cocs_loss

WEIGHTS = (0.3, 2.0)


def levels_of_all(samples: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [random(samples, 4, 7, dtype=dtype), random(samples, 3, 6, seed=1, dtype=dtype)]


class Network(torch.nn.Module):
    """(B, 9) -> features of two levels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(9, 4 * 7), torch.nn.Linear(9, 3 * 6)])

    def forward(self, x: Tensor) -> list[Tensor]:
        sizes = ((4, 7), (3, 6))
        return [
            layer(x).tanh().unflatten(1, size)
            for layer, size in zip(self.layers, sizes, strict=True)
        ]


def objective(features: list[Tensor], group: dist.ProcessGroup | None = None) -> Tensor:
    return (cocs_loss(features, group) * torch.tensor(WEIGHTS)).sum()


def process(rank: int, samples: tuple[int, ...], rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(rendezvous, len(samples))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(samples))
    mine = slice(sum(samples[:rank]), sum(samples[: rank + 1]))
    levels = [f[mine].clone().requires_grad_() for f in levels_of_all(sum(samples))]
    losses = cocs_loss(levels, group=dist.group.WORLD)
    alone = cocs_loss(levels)
    grads = torch.autograd.grad((losses * torch.tensor(WEIGHTS)).sum(), levels)
    narrow = levels_of_all(sum(samples), torch.float32)
    single = cocs_loss([f[mine] for f in narrow], dist.group.WORLD)

    (grad,) = torch.autograd.grad(
        cocs_loss(levels[0], dist.group.WORLD), levels[0], create_graph=True
    )
    with pytest.raises(NotImplementedError, match="found a process group, expected None"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="found a process group, expected None"):
        torch.func.jvp(lambda f: cocs_loss(f, dist.group.WORLD), (levels[0],), (levels[0],))

    network = torch.nn.parallel.DistributedDataParallel(Network())
    value = objective(network(random(sum(samples), 9)[mine].float()), dist.group.WORLD)
    value.backward()
    averaged = {name: p.grad for name, p in network.module.named_parameters()}
    torch.save([losses.detach(), alone.detach(), single, averaged, *grads], f"{out}/{rank}.pt")
    dist.destroy_process_group()


# Q is a mean over pairs of samples, but L is a quotient of its squares: the number of samples, and
# with it how they are spread over the processes, cancels.
@pytest.mark.parametrize("samples", [(3, 5), (4, 0, 1)])
def test_global_batch(samples: tuple[int, ...], tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    arguments = samples, str(tmp_path / "store"), str(tmp_path)
    workers = [
        context.Process(target=process, args=(rank, *arguments), daemon=True)
        for rank in range(len(samples))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * len(samples)

    levels = [f.requires_grad_() for f in levels_of_all(sum(samples))]
    losses = cocs_loss(levels)
    wanted = torch.autograd.grad((losses * torch.tensor(WEIGHTS)).sum(), levels)
    network = Network()
    objective(network(random(sum(samples), 9).float())).backward()
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(samples))]
    for found, alone, single, averaged, *_ in results:
        assert err(found, losses.detach()) < 1e-13
        assert err(alone, losses.detach()) > 1e-3
        assert single.dtype == torch.float32
        assert err(single, losses.detach()) < 1e-6
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert err(averaged[name], parameter.grad) < 1e-6
    # Each process holds its own samples only, so its share of the average is its gradient over W.
    for level, grad in enumerate(wanted):
        shares = torch.cat([result[4 + level] for result in results]) / len(samples)
        assert err(shares, grad) < 1e-12
