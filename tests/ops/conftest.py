from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from cuda_emulation import Emulation, build, compiler

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


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The CUDA kernels as a native module for the CPU."""
    if compiler() is None:
        pytest.skip("g++ and objcopy are not installed")
    return Emulation(build(tmp_path_factory.mktemp("cuda_emulation")))


@pytest.fixture(autouse=True)
def scratch_memory_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `make sanitize` no call gets the larger memory of an earlier one."""
    if os.environ.get("CCDN_SANITIZE"):
        monkeypatch.setattr(scratch, "KEPT_SCRATCH", -1)
