"""One record is enough for every part to know a benchmark: commands, configurations, tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccdn.cli.data import main as data
from ccdn.config import ConfigError, DataConfig, load_config, resolve_data
from ccdn.data import BENCHMARKS, DataError, ImageFaces, detect_kind, layout_or_none, open_faces
from ccdn.data.benchmark import Benchmark
from ccdn.data.faces import Face, Skipped
from ccdn.evaluation.protocols import PROTOCOLS, one_pass
from ccdn.evaluation.published import published


def read_made(root: Path, split: str, skip_bad: bool, **_: object) -> ImageFaces:
    """Two faces of five points; the second one is dark."""
    landmarks = np.full((5, 2), 3, np.float32)
    faces = [
        Face(str(i), landmarks, None, "night", root / "a.png", None, {"dark": i > 0})
        for i in range(2)
    ]
    return ImageFaces(f"made {split}", faces, Skipped())


MADE = Benchmark(
    name="made",
    read=read_made,
    points=5,
    sizes={"train": 3, "test": 2},
    measured=("test", "dark"),
    notes={"test": "counted by hand"},
    markers=("made.txt",),
    attributes=("dark",),
)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(BENCHMARKS, "made", MADE)
    others = {name: BENCHMARKS.pop(name) for name in list(BENCHMARKS) if name != "made"}
    BENCHMARKS.update(others)  # before folder, which every folder is
    (tmp_path / "made.txt").touch()
    return tmp_path


def test_one_record_is_enough(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detect_kind(made) == "made"
    settled = resolve_data(DataConfig(root=str(made)))
    assert (settled.kind, settled.eval_splits) == ("made", ["test", "dark"])
    assert load_config("tiny", ["data.kind=made"]).data.kind == "made"
    assert one_pass("made", ["dark", "test"]) == {"test": ["test", "dark"]}
    faces = open_faces("made", made, "test", points=5)
    assert MADE.members(faces, "test", "dark").tolist() == [1]
    with pytest.raises(DataError, match="made test has 5 points, the configuration asks for 68"):
        open_faces("made", made, "test", points=68)
    data(["inspect", "auto", str(made)])  # its pictures are not there
    said = capsys.readouterr().out
    assert f"{made}: read as made\n" in said
    assert "made train: 2 faces of 5 points, EXPECTED 3\n" in said


def test_the_records_are_complete() -> None:
    """What a reader of one of them would miss."""
    assert list(BENCHMARKS)[-2:] == ["folder", "synthetic"]
    assert [name for name, found in BENCHMARKS.items() if found.read is None] == ["synthetic"]
    for name, found in BENCHMARKS.items():
        assert found.name == name
        assert found.measured
        assert found.points is None or layout_or_none(found.points) is not None
        assert found.markers or found.recognises is not None or name == "synthetic"
        known = {*found.sizes, *found.groups, *found.attributes}
        assert not known or set(found.measured) <= known
        assert set(found.inspected) | set(found.notes) <= known
        if found.paper is not None:
            assert PROTOCOLS[found.paper.protocol].sizes == found.sizes
            assert found.paper.table in published()
            whole, *parts = found.paper.splits
            assert all(found.holds(whole, part) for part in parts)
            assert {*found.paper.splits} <= known


def test_generated_faces_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'synthetic' has no files; ccdn\.synthetic_faces"):
        open_faces("synthetic")
    assert detect_kind(tmp_path) == "folder"
    with pytest.raises(ConfigError, match=r"data\.kind: expected one of auto, 300w, .*'synthet'"):
        load_config("tiny", ["data.kind=synthet"])
