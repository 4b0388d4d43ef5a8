"""If a process that prepares batches dies, the wait for it ends with a helpful line; and a request
to stop ends every wait.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli import train
from ccdn.data import CropDataset
from ccdn.plan.batching import Place
from ccdn.runtime import signals
from ccdn.runtime.interrupt import patience
from ccdn.runtime.processes import ALONE, Processes
from ccdn.runtime.signals import StopRequest
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.training import batches as preparing
from ccdn.training import workers
from ccdn.training.batches import Batch, batches
from ccdn.training.workers import WorkerError, by_processes, by_thread

ROOT = Path(__file__).parents[3]
COUNT, WORKERS = 12, 3

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def never() -> bool:
    return False


class Numbers:
    """Gives 0, 1, ..., and does something before an item, or after the last."""

    def __init__(self, at: int, what: Any) -> None:
        self.at, self.what = at, what

    def __call__(self, number: int, step: int) -> Iterator[Any]:
        for item in islice(range(COUNT), number, None, step):
            if item == self.at:
                self.what()
            yield item
        if self.at == COUNT and number == 0:
            self.what()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_by_sigbus() -> None:
    faulthandler.disable()  # pytest's handler would print a traceback
    os.kill(os.getpid(), signal.SIGBUS)


def test_items_come_in_order() -> None:
    make = Numbers(-1, None)
    assert list(by_processes(make, COUNT, WORKERS, never)) == list(range(COUNT))
    assert list(by_processes(make, 2, WORKERS, never)) == [0, 1]
    assert list(by_thread(make, COUNT, never)) == list(range(COUNT))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("at", [0, 4, COUNT - 1], ids=["start", "middle", "last"])
def test_a_worker_that_is_killed(at: int) -> None:
    """All before its item arrive, and the wait for that one ends."""
    found = []
    stream = by_processes(Numbers(at, die), COUNT, WORKERS, never)
    with pytest.raises(WorkerError) as raised:
        found.extend(stream)  # what was given stays in it
    assert str(raised.value) == (
        "a process that prepares batches was ended by SIGKILL: the system does that when memory"
        " runs out; fewer train.workers need less, and train.workers=0 prepares batches without"
        " such processes"
    )
    assert found == list(range(at))
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_when_its_work_is_done() -> None:
    assert list(by_processes(Numbers(COUNT, die), COUNT, WORKERS, never)) == list(range(COUNT))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (end_by_sigbus, "was ended by SIGBUS: a disk that memory"),
        (lambda: os._exit(3), "ended with exit code 3: train.workers=0"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN), f"was ended by .*{signal.SIGRTMIN.name}"),
    ],
)
def test_other_ends(end: Any, message: str) -> None:
    with pytest.raises(WorkerError, match=message):
        list(by_processes(Numbers(1, end), COUNT, WORKERS, never))


def test_what_a_worker_raises_arrives_with_its_traceback() -> None:
    def broken() -> None:
        raise EOFError("broken")

    with pytest.raises(RuntimeError, match=r"(?s)test_workers\.py.*in broken.*EOFError: broken"):
        list(by_processes(Numbers(4, broken), COUNT, WORKERS, never))


def test_what_cannot_be_pickled_is_an_error() -> None:
    """Not an item that is missing."""

    def make(number: int, step: int) -> Iterator[Any]:
        yield from (lambda: 0 for _ in range(number, COUNT, step))

    with pytest.raises(RuntimeError, match=r"(?s)in a process that prepares.*pickle"):
        list(by_processes(make, COUNT, WORKERS, never))


class EndsWhereItIsRead:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_worker_that_ends_before_it_has_read_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory were short; what it was sent is more than a pipe holds."""
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: spawn)
    make: Any = (EndsWhereItIsRead(), bytes(4 << 20))
    with pytest.raises(WorkerError, match="ended with exit code 3"):
        list(by_processes(make, COUNT, 1, never))


def test_processes_that_are_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows start them anew: all that they are handed is pickled."""

    def read(workers: int) -> list[Batch]:
        crops = CropDataset(SyntheticFaces(6, size=32), size=16)
        return list(batches(crops, 2, 5, Place(0, 1), 2, workers))

    expected = read(0)
    spawn = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: spawn)
    found = read(2)
    assert [batch.place for batch in found] == [batch.place for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.landmarks, other.landmarks)
        assert torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("processes", [False, True])
def test_a_stop_request_ends_the_wait_for_an_item(
    processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Item 3 never comes; what hangs is not waited for when the stream is closed."""
    monkeypatch.setattr(workers, "CLOSING", 0.2)
    hangs = threading.Event()
    make = Numbers(3, hangs.wait)
    asked: list[None] = []

    def stop() -> bool:  # processes are started after the first question
        asked.append(None)
        return len(asked) > processes

    given = by_processes(make, COUNT, 1, stop) if processes else by_thread(make, COUNT, stop)
    try:
        found = list(given)
    finally:
        hangs.set()
    assert found == list(range(len(found)))
    assert len(found) <= 3
    assert len(asked) == 1 + processes
    assert multiprocessing.active_children() == []


def test_a_process_ends_when_its_trainer_is_killed(tmp_path: Path) -> None:
    """The workers hold the writing end of a pipe, which is closed when the last has ended."""
    script = """
import os, signal
from ccdn.training.workers import by_processes
def make(number, step):
    while True:
        yield bytes(1 << 20)
stream = by_processes(make, 1 << 30, 3, lambda: False)
for _ in range(4):
    next(stream)
os.kill(os.getpid(), signal.SIGKILL)
"""
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], pass_fds=[write]) as process:
        os.close(write)
        assert process.wait() == -signal.SIGKILL
        with open(read, "rb") as file:
            assert file.read() == b""


# ---- training --------------------------------------------------------------------------------


@pytest.fixture
def arguments(face_folder: Path, small: list[str]) -> list[str]:
    more = ["train.workers=2", "data.augmentation=mild", f"--data={face_folder}"]
    return ["--config", "tiny", *small, *more]


def at(place: Place, what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something where the batch of a place is prepared."""
    prepared = preparing._Prepare.prepared

    def prepare(self: Any, here: Place, indices: list[int]) -> Any:
        if here == place:
            what()
        return prepared(self, here, indices)

    monkeypatch.setattr(preparing._Prepare, "prepared", prepare)


@pytest.mark.parametrize("place", [Place(0, 0), Place(1, 2), Place(2, 4)])
def test_a_training_whose_worker_is_killed(
    place: Place,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, a checkpoint of every step that was done, and the same bits after --resume."""
    assert train.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        at(place, die, patched)
        assert train.main([*arguments, "--out", str(out)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ccdn train: a process that prepares batches was ended by SIGKILL: ")
    assert last.endswith(
        f"; {out / 'last.pt'} holds the last good state: --resume continues from there"
    )
    assert load_checkpoint(out / "last.pt").step == 5 * place.epoch + place.step
    assert train.main(["--resume", "--out", str(out)]) == 0
    expected = load_checkpoint(tmp_path / "whole/last.pt").model
    found = load_checkpoint(out / "last.pt").model
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_dry_run_whose_worker_is_killed(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at(Place(0, 0), die, monkeypatch)
    assert train.main([*arguments, "--dry-run", "--out", str(tmp_path / "run")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ccdn train: a process that prepares batches was ended by SIGKILL: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("number", [0, 2])
def test_a_signal_ends_the_wait_for_a_batch(
    number: int,
    signum: int,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batch never comes. Sent when the worker that prepares it hangs."""
    monkeypatch.setattr(workers, "CLOSING", 0.2)
    trainer, hangs = os.getpid(), threading.Event()

    def hang() -> None:
        os.kill(trainer, signum)
        hangs.wait()

    at(Place(1, 1), hang, monkeypatch)
    out = tmp_path / "run"
    try:
        code = train.main([*arguments, f"train.workers={number}", "--out", str(out)])
    finally:
        hangs.set()
    assert code == 128 + signum
    # The signal may come before the steps that were prepared are done, never after the next.
    assert load_checkpoint(out / "last.pt").step <= 6


def test_several_processes_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stop together after a step, or each by itself if no step comes."""
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    team: Any = Processes(0, 2, 0, object())  # type: ignore[arg-type]
    request = StopRequest()
    with request.listen():
        assert not request.ends_a_wait(ALONE)
        signal.raise_signal(signal.SIGTERM)
        assert request.ends_a_wait(ALONE)
        assert not request.ends_a_wait(team)
        now += signals.TOGETHER
        assert request.ends_a_wait(team)


def test_patience_is_put_back() -> None:
    from ccdn.runtime import interrupt

    with contextlib.suppress(ValueError), patience(1.0):
        assert interrupt._watch.patience == 1.0
        raise ValueError
    assert interrupt._watch.patience == interrupt.PATIENCE


def test_shared_memory_that_is_too_small(arguments: list[str], tmp_path: Path) -> None:
    """/dev/shm with room for 8 kB: nothing of a batch lies in there."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        pytest.skip("needs unshare, of Linux")
    small = "mount --make-rprivate / && mount -t tmpfs -o size=8k,mode=1777 tmpfs /dev/shm"
    if subprocess.run([unshare, "-m", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    run = [sys.executable, "-m", "ccdn.train", *arguments, "--out", str(tmp_path / "run")]
    process = subprocess.run(
        [unshare, "-m", "sh", "-c", f'{small} && exec "$@"', "sh", *run, "train.epochs=1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run/weights.safetensors").exists()
