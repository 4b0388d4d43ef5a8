"""The picture beside a table of results."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def text_of(rows: int) -> str:
    """A file of results with two operators; the first one's first row is slower than PyTorch."""
    lines = ["# Benchmarks: a machine, 2 threads", "", "## Geometric means", ""]
    lines += ["| x best eager | operator | rows |", "| ---: | ---: | ---: |", "| 9.00 | gram | 1 |"]
    titles = "| x best eager | x reference | x compiled | B | memory | ms | torch |"
    ruler = "| " + "---: | " * 7
    lines += ["", "## gram", "", titles, ruler, "| 0.50 | 2.00 | 3.00 | 1 | NCHW | 1.0 | 2.13 |"]
    lines += [f"| 8.00 | 4.00 |  | {b} |  | 1.0 | 2.13 |" for b in range(2, rows)]
    lines += ["| 2.00 | 2.83 | 3.00 | geometric mean |  |  |  |"]
    lines += ["", "## product", "", titles, ruler, "| 3.00 | 3.00 |  | 7 | NHWC | 1.0 | 2.13 |"]
    return "\n".join(lines) + "\n"


def pixels(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_table_is_read(load: Load) -> None:
    machine, lines = load("plot").read(text_of(3))
    assert machine == "a machine, 2 threads"
    assert [tuple(line) for line in lines] == [
        ("gram", "B 1, NCHW", {"best eager": 0.5, "reference": 2, "compiled": 3}),
        ("gram", "B 2", {"best eager": 8, "reference": 4}),
        ("product", "B 7, NHWC", {"best eager": 3, "reference": 3}),
    ]


@pytest.mark.parametrize("text", ["", "# Benchmarks: a machine\n", text_of(3).partition("\n")[2]])
def test_what_is_no_table_raises(load: Load, text: str) -> None:
    with pytest.raises(ValueError, match="no table of results"):
        load("plot").read(text)


def test_the_results_are_read_as_they_were_written(load: Load) -> None:
    """As many rows as the overview counts, and its geometric means."""
    plot = load("plot")
    for path in RESULTS.glob("*.md"):
        if path.with_suffix(".json").exists() or path.stem.endswith("-profile"):
            continue  # of a GPU, or a table without ratios
        text = path.read_text(encoding="utf-8")
        groups: dict[str, list[float]] = {}
        for line in plot.read(text)[1]:
            groups.setdefault(line.operator, []).append(line.ratios["best eager"])
        overview = text.partition("## Geometric means")[2].partition("\n## ")[0]
        means = {}
        for cells in map(plot._cells, overview.split("\n\n")[1].splitlines()[2:]):
            means[cells[-3]] = int(cells[-2]), float(cells[0]), float(cells[-1])
        assert list(groups) == list(means)
        for operator, values in groups.items():
            rows, mean, smallest = means[operator]
            assert (len(values), min(values)) == (rows, smallest)
            assert plot.geometric_mean(values) == pytest.approx(mean, abs=0.011)


def test_few_rows_have_a_line_each_and_many_have_not(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    plot = load("plot")
    shown: list[str] = []
    beside = plot._beside

    def watched(axes: object, x: float, place: float, text: str, **looks: object) -> None:
        shown.append(text)
        beside(axes, x, place, text, **looks)

    monkeypatch.setattr(plot, "_beside", watched)
    monkeypatch.setattr(plot, "MOST", 8)
    few = plot.draw(text_of(8))["png"]
    assert shown.count("8.00") == 6
    assert "7 rows" not in shown
    shown.clear()
    plot.draw(text_of(9))
    assert shown[:4] == ["5.66", "0.50", "gram", "8 rows"]
    many = plot.draw(text_of(300))
    assert pixels(many["png"])[1] < 700
    assert many["svg"].count(b"\n") < 2500
    assert pixels(few)[1] > 400


def test_the_same_table_gives_the_same_picture(load: Load, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = load("plot")
    path = tmp_path / "m.md"
    path.write_text(text_of(90))
    plot.main([str(path)])
    found = {kind: path.with_suffix(f".{kind}").read_bytes() for kind in ("png", "svg")}
    assert found == plot.draw(text_of(90))
