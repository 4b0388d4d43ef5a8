"""``ccdn data inspect``: counts and sheets of crops."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ccdn.cli.data import main
from ccdn.data import BENCHMARKS, read_image


def test_counts_and_sheets(w300: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheets"
    code = main(
        [
            "inspect",
            "300w",
            str(w300),
            "--split",
            "full",
            "--out",
            str(out),
            "--augmentation",
            "mild",
        ]
    )
    printed = capsys.readouterr()
    assert code == 0
    assert "300W full: 6 faces of 68 points, EXPECTED 689" in printed.out
    assert "2  helen/testset of 330" in printed.out
    assert "683 faces are missing: get them from the authors of the data" in printed.out
    for name in ("full-none.png", "full-mild.png"):
        sheet = read_image(out / name)
        assert sheet.shape[1] > 6 * 192
        assert ((sheet[..., 1] > 200) & (sheet[..., 0] < 100)).sum() > 500  # green landmarks


def test_a_part_that_is_not_there(w300: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(w300 / "ibug")
    assert main(["inspect", "300w", str(w300), "--split", "full"]) == 0
    assert "     0  ibug of 135\n" in capsys.readouterr().out
    assert main(["inspect", "300w", str(w300), "--split", "helen/testset"]) == 0
    assert "328 faces are missing: " in capsys.readouterr().out


def test_whole_splits_need_no_advice(
    w300: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict.fromkeys(BENCHMARKS["300w"].sizes, 2)
    whole = replace(BENCHMARKS["300w"], sizes=sizes)
    monkeypatch.setitem(BENCHMARKS, "300w", whole)
    assert main(["inspect", "300w", str(w300), "--split", "ibug"]) == 0
    printed = capsys.readouterr().out
    assert "as expected 2" in printed
    assert "missing" not in printed


def test_an_address_is_not_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("auto", "300w", "wflw"):
        assert main(["inspect", kind, "https://data.example/faces.zip"]) == 2
        assert "addresses are not fetched: download it" in capsys.readouterr().err


def test_skipped_faces_are_listed(w300: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (w300 / "ibug" / "image_1.pts").write_text("nothing")
    assert main(["inspect", "300w", str(w300), "--split", "ibug"]) == 2
    assert "image_1.pts, line 1: found 'nothing'" in capsys.readouterr().err
    assert main(["inspect", "300w", str(w300), "--split", "ibug", "--skip-bad"]) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_own_landmarks(
    tmp_path: Path, write_face: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    write_face(tmp_path / "faces" / "a.png", 1, 7)
    code = main(["inspect", "folder", str(tmp_path / "faces"), "--out", str(tmp_path / "out")])
    assert code == 0
    printed = capsys.readouterr().out
    assert "1 faces of 7 points" in printed
    assert "0 crops (box gt, margin 0.25) cut landmarks off" in printed  # no box is provided
    assert (tmp_path / "out" / "train-newell.png").is_file()


def test_generated_faces_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "synthetic", "--faces", "3", "--seed", "5"]) == 0
    assert "seed5: 3 faces of 68 points" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "synthetic", "--faces", "-3"])
    assert stop.value.code == 2
    assert "from 1, found '-3'" in capsys.readouterr().err
