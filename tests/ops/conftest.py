from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ccdn_ops.backends.cpu import scratch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN (0xFF for bytes), so that what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    scratch.forget()  # what an earlier call has filled
    yield
    torch.use_deterministic_algorithms(False)
