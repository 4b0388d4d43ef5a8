"""Published numbers, and tables with ours next to them in four formats."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from ccdn.evaluation.protocols import PROTOCOLS, one_pass
from ccdn.evaluation.published import published
from ccdn.evaluation.scoring import Reference, score
from ccdn.evaluation.tables import as_csv, as_latex, as_text, as_values, paper_tables, score_table

ROWS = {"table2": 20, "table3": 12, "table4": 14, "table5": 10, "table6": 5, "table7": 3}


@pytest.fixture
def results():  # type: ignore[no-untyped-def]
    random = np.random.default_rng(3)
    truth = random.uniform(0, 100, (6, 68, 2))
    boxes = np.tile([0.0, 0, 100, 100], (6, 1))
    subsets = {"full": np.arange(6), "common": np.arange(4), "challenging": np.array([], np.int64)}
    reference = Reference(
        [str(i) for i in range(6)], truth, boxes, subsets, PROTOCOLS["300w"].sizes
    )
    near = truth + random.normal(0, 1, truth.shape)
    return reference, score(reference, {"ours_&_more": near, "mean shape": truth + 9})


def test_every_published_row_is_there() -> None:
    tables = published()
    found = {name: sum(len(block.rows) for block in t.blocks) for name, t in tables.items()}
    assert found == ROWS
    ccdn = {
        (name, block.norm): row.values
        for name, table in tables.items()
        for block in table.blocks
        for row in block.rows
        if row.method == "CCDN (paper)"
    }
    assert ccdn[("table2", "inter_pupil")] == (3.21, 6.02, 3.77)
    assert ccdn[("table3", "inter_pupil")] == (4.91, 1.12)
    assert ccdn[("table4", "face_size")] == (1.35, 1.14)
    assert ccdn[("table5", "inter_ocular")] == (4.29, 7.22, 4.71, 4.34, 4.21, 5.25, 4.88)


def test_the_notes_of_the_published_numbers_are_true() -> None:
    """Each inconsistency that a note states can be computed from the rows themselves."""
    tables = published()

    def row(table: str, norm: str, method: str) -> dict[str, float | None]:
        block = next(b for b in tables[table].blocks if b.norm == norm)
        values = next(r.values for r in block.rows if r.method == method)
        return dict(zip(tables[table].columns, values, strict=True))

    pupil = row("table2", "inter_pupil", "CCDN (paper)")["full"]
    ocular = row("table2", "inter_ocular", "CCDN (paper)")["full"]
    assert pupil / ocular == pytest.approx(1.22, abs=0.005)  # type: ignore[operator]
    chandran = row("table2", "inter_pupil", "Chandran et al.")
    full = (554 * chandran["common"] + 135 * chandran["challenging"]) / 689  # type: ignore[operator]
    assert full == pytest.approx(3.65, abs=0.005)
    assert row("table4", "face_size", "HRNet") == row("table4", "face_size", "LAB")
    ccdn = row("table5", "inter_ocular", "CCDN (paper)")
    better = {
        (method, column)
        for method in ("CCFS", "DVLN", "LAB", "Wing", "HRNet", "AWing", "LUVLi")
        for column, value in row("table5", "inter_ocular", method).items()
        if value < ccdn[column]  # type: ignore[operator]
    }
    wing = {("AWing", name) for name in ("expression", "illumination", "occlusion")}
    assert better == wing | {("LUVLi", "illumination")}


def test_ours_stands_below_the_published_rows(results) -> None:  # type: ignore[no-untyped-def]
    reference, found = results
    assert [r.split for r in found] == ["full", "common"]  # no faces, no scores
    pupil, ocular = paper_tables(PROTOCOLS["300w"], found, ["a partial set"])
    assert pupil.columns == ("method", "common", "challenging", "full", "source")
    last = pupil.rows[-1]
    assert (last.ours, last.cells[0], last.cells[2]) == (True, "ours_&_more", None)
    assert pupil.notes[last.marks[0] - 1] == "a partial set"
    full = found[0].scores["ours_&_more"]["inter_ocular"]["nme"]
    assert ocular.rows[-1].cells[3] == full
    assert not any(row.cells[0] == "mean shape" for row in pupil.rows)
    assert reference.missing()["challenging"] == (0, 135)


def test_four_formats_say_the_same(results) -> None:  # type: ignore[no-untyped-def]
    _, found = results
    tables = [score_table(found), *paper_tables(PROTOCOLS["300w"], found)]
    for table in tables:
        text, latex, values = as_text(table), as_latex(table), as_values(table)
        assert len(text.splitlines()) == 3 + len(table.rows) + len(table.notes)
        assert latex.count(r" \\") == 1 + len(table.rows)
        assert [tuple(row["cells"]) for row in values["rows"]] == [r.cells for r in table.rows]
        for row in table.rows:
            for cell in row.cells[-4:-1]:
                shown = "-" if cell is None else f"{cell:.2f}" if isinstance(cell, float) else cell
                assert str(shown) in text
    assert r"ours\_\&\_more" in as_latex(tables[0])
    lines = list(csv.reader(io.StringIO(as_csv(tables))))
    row = next(line for line in lines if line[:3] == ["full", "6", "ours_&_more"])
    assert float(row[3]) == found[0].scores["ours_&_more"]["inter_ocular"]["nme"]


@pytest.mark.parametrize(
    ("kind", "splits", "expected"),
    [
        ("300w", ["common", "challenging", "full"], {"full": ["full", "common", "challenging"]}),
        ("300w", ["helen", "ibug"], {"helen": ["helen"], "ibug": ["ibug"]}),
        ("300w", ["own", "full"], {"own": ["own"], "full": ["full"]}),
        ("300w", ["full", "own"], {"full": ["full"], "own": ["own"]}),
        ("300w", ["full", "test", "lfpw"], {"full": ["full", "test", "lfpw"]}),
        ("300w", ["test", "full"], {"full": ["full", "test"]}),
        ("wflw", ["pose", "test", "blur"], {"test": ["test", "pose", "blur"]}),
        ("wflw", ["pose", "blur"], {"pose": ["pose"], "blur": ["blur"]}),
        ("wflw", ["train", "pose"], {"train": ["train"], "pose": ["pose"]}),
        ("aflw", ["test", "frontal"], {"test": ["test", "frontal"]}),
        ("aflw", ["wide", "frontal"], {"wide": ["wide"], "frontal": ["frontal"]}),
        ("folder", ["test", "train"], {"test": ["test"], "train": ["train"]}),
    ],
)
def test_a_split_that_another_holds_is_not_opened(
    kind: str, splits: list[str], expected: dict[str, list[str]]
) -> None:
    assert one_pass(kind, splits) == expected
