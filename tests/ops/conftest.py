from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuda_emulation import Emulation, build, compiler
from filelock import FileLock

from ccdn_ops.backends.cpu import scratch
from ccdn_ops.swap import functions

ROOT = Path(__file__).resolve().parents[2]
_recognised_once = functools.cache(functions.recognise)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN (0xFF for bytes), which reveals what a kernel forgets to write."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    scratch.forget()  # what an earlier call has filled
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying a function takes seconds; the tests that ask for this share theirs."""
    monkeypatch.setattr(functions, "recognise", _recognised_once)


@pytest.fixture(scope="session")
def emulation(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The CUDA kernels as a native module for the CPU.

    Compiled once for these sources, which takes 50 seconds of CPU time: the processes of one run
    share it, and so do later runs.
    """
    if compiler() is None:
        pytest.skip("g++ and objcopy are not installed")
    cache = getattr(pytestconfig, "cache", None)  # None with -p no:cacheprovider
    folder = tmp_path_factory.mktemp("emulated") if cache is None else cache.mkdir("cuda_emulation")
    return Emulation(build_once(Path(folder)))


def build_once(folder: Path) -> Path:
    """The module of these sources in `folder`, built if it is missing; others are removed."""
    name = fingerprint()
    with FileLock(folder / "lock"):
        found = list((folder / name).glob("_C*.so"))
        if found:
            return found[0]
        for old in folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
        building = folder / "building"
        building.mkdir()
        module = build(building)
        # Complete under its name, or not there: an interrupted build is never taken for one.
        building.rename(folder / name)
        return folder / name / module.name


def fingerprint() -> str:
    """Of everything that a build reads: sources, headers, flags, compiler and Python."""
    said = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(said + f"{sys.version}{torch.__version__}".encode())
    for root in (ROOT / "csrc", ROOT / "tests" / "ops" / "cuda_emulation"):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@pytest.fixture(autouse=True)
def scratch_memory_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `make sanitize` no call gets the larger memory of an earlier one."""
    if os.environ.get("CCDN_SANITIZE"):
        monkeypatch.setattr(scratch, "KEPT_SCRATCH", -1)
