"""Several threads of a process use the operators as if each were alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from together import SECONDS, together

import ccdn_ops
from ccdn_ops import chebyshev, use_backend
from ccdn_ops.backends import registry


def test_values_and_gradients(backend: str) -> None:
    """Bit-equal to those of one thread: scratch memory is each thread's own."""
    shapes = [(2, 16, 6, 5), (1, 40, 4, 4), (3, 8, 9, 9), (2, 24, 3, 7)]

    def work(number: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(shapes[number], generator=generator).requires_grad_()
        out = ccdn_ops.second_order_squeeze(x)
        root = ccdn_ops.isqrt_cov(x)
        (gradient,) = torch.autograd.grad(out.square().sum() + root.sum(), x)
        return [out.detach(), root.detach(), gradient]

    alone = [work(number) for number in range(len(shapes))]
    for _ in range(5):
        for found, expected in zip(together(work, len(shapes)), alone, strict=True):
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other)


def test_blocks_of_two_threads_leave_nothing_behind() -> None:
    """The first to enter leaves first; what the second had found was the first one's choice."""
    before = registry.override()
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def work(number: int) -> None:
        if number == 0:
            with use_backend("cpu"):
                first_in.set()
                assert second_in.wait(SECONDS)
            first_out.set()
            return
        assert first_in.wait(SECONDS)
        with use_backend("reference"):
            second_in.set()
            assert first_out.wait(SECONDS)
            assert registry.override() == "reference"

    together(work, 2)
    assert registry.override() == before


def test_both_threads_get_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans hold it, and kernels its address, so there must not be two."""
    made = chebyshev._made_table
    inside = threading.Barrier(2)

    def made_together(*key: Any) -> np.ndarray:
        table = made(*key)
        inside.wait(SECONDS)
        return table

    monkeypatch.setattr(chebyshev, "_tables", {})
    monkeypatch.setattr(chebyshev, "_made_table", made_together)
    first, second = together(lambda _: chebyshev.table(3, "float32", True), 2)
    assert first is second
    assert chebyshev.table(3, "float32", True) is first
