"""The lock of a folder: one process at a time, and nothing to clean up after a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from locked import held_by_another

from ccdn.runtime.locks import BusyError, Lock


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "run/.lock"
    with held_by_another(path) as other, Lock(path) as lock:
        with pytest.raises(BusyError, match=rf"run: folder is in use by process {other.pid} on "):
            lock.take()
        assert path.exists()  # a refused process removes nothing
    assert not path.exists()
    with Lock(path) as lock:
        lock.take()
        lock.take()
        assert path.read_text().strip().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_waiting_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_by_another(path) as other, Lock(path) as lock:
        assert other.stdin is not None
        ends = threading.Timer(0.5, other.stdin.close)
        ends.start()
        lock.take(wait=60.0)
        assert path.read_text().strip().startswith(f"process {os.getpid()} on ")
        ends.join()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_by_another(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists()
    with Lock(path) as lock:
        lock.take()


def test_a_child_does_not_hold_it(tmp_path: Path) -> None:
    """As a worker of a DataLoader that outlives its parent."""
    script = """
import os, sys
from pathlib import Path
from ccdn.runtime.locks import Lock
with Lock(Path(sys.argv[1])) as lock:
    lock.take()
    os.fork()
    os.write(1, b"held\\n")  # whole, whoever else writes
    sys.stdin.read()
"""
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", script, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["held\n"] * 2
        process.send_signal(signal.SIGKILL)
        os.waitpid(process.pid, 0)  # the child runs until its input is closed
        with Lock(path) as lock:
            lock.take()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Lock(tmp_path / ".lock") as lock, pytest.warns(UserWarning, match="cannot be locked"):
        lock.take()


def test_one_after_the_other(tmp_path: Path) -> None:
    """Four processes count in one file, which loses nothing: removing the lock's file lets no two
    in.
    """
    script = """
import sys
from pathlib import Path
from ccdn.runtime.locks import Lock
folder = Path(sys.argv[1])
for _ in range(100):
    with Lock(folder / ".lock") as lock:
        lock.take(wait=60.0)
        count = folder / "count"
        count.write_text(str(int(count.read_text()) + 1))
"""
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "400"
