"""Runs that are killed anywhere, again and again, end as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torchruns import environment, finish, free_port, steps, torchrun

from ccdn.checkpoint.load import load_checkpoint
from ccdn.training.resume import has_checkpoint, load_last

KILLS = 20
BETWEEN = 3  # train.checkpoint_steps

# Kills itself when it reaches a place for the n-th time.
KILL = """
import os, random, signal, sys
import ccdn.runtime.files, ccdn.training.metrics_log as log
import ccdn.checkpoint.torch_file as checkpoint
import ccdn.training.step as step, ccdn.training.trainer as trainer

place, number, share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
left = number

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def here():
    global left
    left -= 1
    return left == 0

def after(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **named):
        found = real(*arguments, **named)
        if here():
            die()
        return found
    setattr(owner, name, call)

if place == "gradient":
    after(step.Step, "_gradient")
elif place == "evaluation":
    after(trainer, "predict_faces")
elif place == "log":
    write = log.MetricsLog.write
    def half(self, record):
        if here():
            self._file.write(log._line(record)[: int(share * 60)])
            die()
        write(self, record)
    log.MetricsLog.write = half
elif place == "write":
    real = checkpoint.io.BytesIO.getbuffer
    class Buffer(checkpoint.io.BytesIO):
        def getbuffer(self):
            content = super().getbuffer()
            return Cut(content) if here() else content
    class Cut:
        def __init__(self, content):
            self.content = content
    class File:
        def __init__(self, file):
            self.file = file
        def __getattr__(self, name):
            return getattr(self.file, name)
        def write(self, content):
            if isinstance(content, Cut):
                self.file.write(content.content[: int(share * len(content.content))])
                self.file.flush()
                die()
            return self.file.write(content)
    atomic = checkpoint.atomic_write
    from contextlib import contextmanager
    @contextmanager
    def wrapped(path):
        with atomic(path) as file:
            yield File(file)
    checkpoint.atomic_write = wrapped
    checkpoint.io.BytesIO = Buffer
elif place in ("before the change of names", "after the change of names"):
    replace = os.replace
    def change(source, target):
        mine = str(target).endswith(".pt") and here()
        if mine and place.startswith("before"):
            die()
        replace(source, target)
        if mine:
            die()
    os.replace = change
else:
    assert place == "nowhere"

from ccdn.cli.train import main
sys.exit(main(sys.argv[4:]))
"""
# How often about ten steps reach a place.
PLACES = {
    "gradient": 10,
    "evaluation": 2,
    "log": 12,
    "write": 5,
    "before the change of names": 9,
    "after the change of names": 9,
}


@pytest.mark.slow
def test_twenty_random_kills(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    script = tmp_path / "kill.py"
    script.write_text(KILL)
    draw = random.Random(7)
    more = ["data.holdout=0.2", "train.selection=holdout", "train.ema=0.9", "train.log_steps=1"]
    more += [f"train.checkpoint_steps={BETWEEN}", "train.epochs=40"]

    def command(out: Path, place: str, number: int) -> list[str]:
        kill = [sys.executable, str(script), place, str(number), str(draw.random())]
        own = ["--config", "tiny", "--data", str(face_folder), "--out", str(out), "--resume"]
        return [*kill, *own, *small, *more]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    places = [*PLACES] * (KILLS // len(PLACES)) + draw.sample([*PLACES], KILLS % len(PLACES))
    draw.shuffle(places)
    for place in places:
        call = command(killed, place, draw.randint(1, PLACES[place]))
        done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
        for path in killed.glob("*.pt"):  # no partial file has a checkpoint's name
            load_checkpoint(path)
        done_steps = max(steps(killed) or {0: {}})
        saved = load_last(killed)[0].step if has_checkpoint(killed) else 0
        assert done_steps - BETWEEN <= saved <= done_steps + 1, place
    finish(command(killed, "nowhere", 1))
    finish(command(whole, "nowhere", 1))
    ours, theirs = (load_checkpoint(out / "last.pt") for out in (killed, whole))
    assert ours.step == 160
    for mine, other in ((ours.model, theirs.model), (ours.averaged, theirs.averaged)):
        assert mine is not None
        assert other is not None
        assert all(torch.equal(mine[name], other[name]) for name in other)
    assert [record["loss"] for record in steps(killed).values()] == [
        record["loss"] for record in steps(whole).values()
    ]
    assert not [path for path in killed.iterdir() if path.name.endswith(".tmp")]


def descendants(process: int) -> list[int]:
    """The processes below one, from /proc."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


class Node(NamedTuple):
    """Where an agent runs. prefix: what its command begins with."""

    address: str
    prefix: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


LOOPBACK = [Node("127.0.0.1")] * 2


@pytest.fixture(params=["loopback", "namespaces"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    """Two nodes: this one twice, or two network namespaces with a cable between them."""
    if request.param == "loopback":
        yield LOOPBACK
        return
    names = [f"ccdn{os.getpid()}{end}" for end in "ab"]
    found = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            one, two = names
            ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "cable", "netns", two)
            for i, name in enumerate(names):
                ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    ip("-n", name, "link", "set", device, "up")
                interface = ("GLOO_SOCKET_IFNAME", "cable")
                prefix = ("ip", "netns", "exec", name)
                found.append(Node(f"10.77.0.{i + 1}", prefix, (interface,)))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)}")
        yield found
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds workers in Linux' /proc")
def test_an_agent_that_dies_and_comes_back(
    nodes: list[Node], face_folder: Path, small: list[str], tmp_path: Path
) -> None:
    """Two torchrun agents on two nodes: one is killed with its worker, and started again."""
    out = tmp_path / "run"
    more = ["train.log_steps=1", "train.checkpoint_steps=2", "train.epochs=60"]
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"]
    meeting += [f"--rdzv-endpoint={nodes[0].address}:{free_port()}", "--rdzv-id=pair"]
    own = ["--config", "tiny", "--data", str(face_folder), "--out", str(out), *small, *more]
    # The run must not end before the kill: every step of the first start waits for the file.
    script = tmp_path / "train.py"
    script.write_text(SLOW)
    go = tmp_path / "go"
    logs = [tmp_path / name for name in ("first.log", "second.log", "third.log")]

    def agent(host: bool, log: Path) -> subprocess.Popen[bytes]:
        node = nodes[0 if host else 1]
        role = [f"--rdzv-conf=is_host={int(host)},keep_alive_interval=1,keep_alive_max_attempt=3"]
        role += [f"--local-addr={node.address}"]
        command = [*node.prefix, *torchrun(*meeting, *role), str(script), str(go), *own]
        with log.open("wb") as file:
            # An agent that shares its store with the workers tells its address in the first
            # round only: a new one would wait for it.
            variables = environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", **dict(node.variables))
            return subprocess.Popen(command, env=variables, stdout=file, stderr=file)

    agents = [agent(True, logs[0]), agent(False, logs[1])]
    try:
        wait_until(lambda: (out / "last.pt").exists(), agents, logs)
        dead = agents.pop()
        for process in [dead.pid, *descendants(dead.pid)]:
            os.kill(process, signal.SIGKILL)
        dead.wait()
        go.touch()
        agents.append(agent(False, logs[2]))
        for process in agents:
            assert process.wait(timeout=240) == 0, [log.read_text()[-3000:] for log in logs]
    finally:
        for process in agents:
            for one in [process.pid, *descendants(process.pid)] if process.poll() is None else []:
                os.kill(one, signal.SIGKILL)
    assert "resuming after step" in "".join(log.read_text() for log in logs)
    saved = load_checkpoint(out / "last.pt")
    assert (saved.step, saved.processes) == (300, 2)
    assert sorted(steps(out)) == list(range(1, 301))


SLOW = """
import sys, time
from pathlib import Path
import ccdn.training.trainer as trainer

go = Path(sys.argv[1])
real = trainer.Trainer._one_step
def wait(self, batch):
    while self.step > 20 and not go.exists():
        time.sleep(0.05)
    real(self, batch)
trainer.Trainer._one_step = wait
from ccdn.cli.train import main
sys.exit(main(sys.argv[2:]))
"""


def wait_until(done: object, agents: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    assert callable(done)
    limit = time.monotonic() + 120
    while not done():
        alive = all(agent.poll() is None for agent in agents)
        logged = [log.read_text()[-3000:] for log in logs if log.exists()]
        assert alive, logged
        assert time.monotonic() < limit, logged
        time.sleep(0.05)
