"""Runs of ccdn train under torchrun, in real processes, for the tests of several of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ccdn.training.metrics_log import read_log


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Processes that share two cores must not each try to use all of them."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


def one_node(processes: int, *options: str) -> list[str]:
    """A torchrun of its own, at a port of its own."""
    rendezvous = [f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    return torchrun("--nnodes=1", "--master-addr=127.0.0.1", *rendezvous, *options)


def train_module(*arguments: str) -> list[str]:
    return ["-m", "ccdn.train", *arguments]


def finish(command: list[str], timeout: int = 300, **more: str) -> str:
    """Run to the end; what it wrote to stderr. Fails with that when the exit code is not 0."""
    done = subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def steps(out: Path) -> dict[int, dict[str, Any]]:
    """The step records of a run."""
    found = read_log(out / "metrics.jsonl")
    return {record["step"]: record for record in found if record["kind"] == "step"}
