"""A file that grows piece by piece: written pieces are kept, and it gets its name last."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from ccdn.runtime.files import GrowingFile


class Disk:
    """A file on a disk with room for so many bytes, which takes three at a time."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(3, self.room, len(data))
        self.room -= count
        return int(self.file.write(data[:count]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_its_name_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "new/a.json"
    path.parent.mkdir()
    path.write_bytes(b"before")
    (tmp_path / "new/a.json.partial").write_bytes(b"what a killed process left")
    file = GrowingFile(path)
    for i in range(3):
        file.add(b"piece %d\n" % i)
        assert file.partial.read_bytes().count(b"\n") == i + 1  # already with the system
    assert path.read_bytes() == b"before"
    file.finish()
    assert path.read_bytes() == b"piece 0\npiece 1\npiece 2\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_whole_pieces(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "a.json")
    file._file = Disk(file._file, 26)  # type: ignore[assignment]
    for _ in range(2):
        file.add(b"ten bytes\n")
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json'"):
        file.add(b"ten bytes\n")
    assert file.partial.read_bytes() == b"ten bytes\n" * 2
    file._file.room = 100  # type: ignore[attr-defined]
    file.add(b"end")
    file.leave()
    assert file.partial.read_bytes() == b"ten bytes\nten bytes\nend"
    assert not file.path.exists()


def test_nothing_in_it(tmp_path: Path) -> None:
    GrowingFile(tmp_path / "a.json").leave()
    assert not list(tmp_path.iterdir())
