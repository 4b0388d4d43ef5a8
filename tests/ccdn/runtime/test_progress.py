"""Progress of a run without a terminal."""

from __future__ import annotations

import pytest

from ccdn.runtime.progress import bar


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bar("abc", "letters", seconds=0)) == ["a", "b", "c"]
    assert capsys.readouterr().err.split("\n")[:2] == ["letters: 1/3", "letters: 2/3"]
    assert list(bar(iter("ab"), "frames", 9, seconds=0)) == ["a", "b"]
    assert capsys.readouterr().err.startswith("frames: 1/9\n")
    assert list(bar(iter("ab"), "frames", seconds=0)) == ["a", "b"]
    assert capsys.readouterr().err.startswith("frames: 1\n")
    list(bar("abc", "letters"))
    assert capsys.readouterr().err == ""  # not before its time
