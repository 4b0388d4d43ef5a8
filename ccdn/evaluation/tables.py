"""Tables of scores, ours next to the published ones, as text, CSV, LaTeX and plain values."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ccdn.evaluation.metrics import NORMS
from ccdn.evaluation.protocols import Protocol
from ccdn.evaluation.published import published
from ccdn.evaluation.scoring import MEAN_SHAPE, SplitResult

NORM_NAMES = {
    "inter_ocular": "inter-ocular",
    "inter_pupil": "inter-pupil",
    "face_size": "face size",
}
SHORT_NAMES = {"inter_ocular": "ocular", "inter_pupil": "pupil", "face_size": "face size"}
METRIC_NAMES = {
    "nme": "NME",
    "fr8": "FR@8",
    "fr10": "FR@10",
    "auc8": "AUC@8",
    "auc10": "AUC@10",
}
COLUMN_NAMES = {"makeup": "make-up", "nme": "NME", "fr10": "FR@10"}
OURS = "measured here"
PRINTED = "the paper's"

Cell = str | int | float | None


@dataclass(frozen=True)
class Row:
    """The cells of a row; numbers are shown with two digits, None as -. marks: its notes' numbers,
    from 1. ours: measured here, not printed in the paper.
    """

    cells: tuple[Cell, ...]
    ours: bool = True
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """name: of files and anchors. notes: below the table; those that no row refers to hold for the
    whole of it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def score_table(results: Sequence[SplitResult]) -> Table:
    """Every method on every split: NME by every norm, then failure rates and AUC by the norms that
    need eyes (for layouts without eyes: by face size, which is stated). All in %.
    """
    measured = [norm for norm in NORMS if any(_first(result)[norm] for result in results)]
    by = [norm for norm in measured if norm != "face_size"] or ["face_size"]
    metrics = [(key, norm) for key in METRIC_NAMES if key != "nme" for norm in by]
    columns = ["split", "faces", "method", *(f"NME {SHORT_NAMES[norm]}" for norm in NORMS)]
    columns += [f"{METRIC_NAMES[key]} {SHORT_NAMES[norm]}" for key, norm in metrics]
    rows = []
    for result in results:
        for method in result.methods:
            found = result.scores[method]
            cells: list[Cell] = [result.split, len(result.indices), method]
            for key, norm in [*(("nme", norm) for norm in NORMS), *metrics]:
                values = found[norm]
                cells.append(None if values is None else values[key])
            rows.append(Row(tuple(cells)))
    return Table("scores", "Scores (NME, FR and AUC in %)", tuple(columns), tuple(rows))


def paper_tables(
    protocol: Protocol, results: Sequence[SplitResult], notes: Sequence[str] = ()
) -> list[Table]:
    """The paper's table of a protocol, one for each norm: its rows, then those of the results.

    notes: what must be said of the results, such as that a test set is partial.
    """
    table = published()[protocol.table]
    by_split = {result.split: result for result in results}
    found = []
    for block in table.blocks:
        said: list[str] = []

        def mark(text: str, said: list[str] = said) -> int:
            if text not in said:
                said.append(text)
            return said.index(text) + 1

        common = [mark(text) for text in block.notes]
        rows = []
        for row in block.rows:
            marks = tuple(mark(text) for text in row.notes)
            rows.append(Row((row.method, *row.values, PRINTED), False, marks))
        for method in _methods(results):
            cells = [
                _value(by_split, protocol, column, method, block.norm) for column in table.columns
            ]
            if any(cell is not None for cell in cells):
                marks = tuple(mark(text) for text in notes)
                rows.append(Row((method, *cells, OURS), True, marks))
        if protocol.kind == "cofw68" and block.rows:
            common.append(mark("The rows measured here are on COFW-68's 68 points."))
        columns = ("method", *(COLUMN_NAMES.get(name, name) for name in table.columns), "source")
        found.append(
            Table(
                f"{protocol.table}-{block.norm.replace('_', '-')}",
                f"{table.paper}: {table.title}, {NORM_NAMES[block.norm]} [%]",
                columns,
                tuple(rows),
                tuple(said),
            )
        )
    return found


def as_text(table: Table) -> str:
    """A table with aligned columns, and its notes below."""
    header = [_marked(name, ()) for name in table.columns]
    grid = [header, *([_shown(c) for c in row.cells] for row in table.rows)]
    for line, row in zip(grid[1:], table.rows, strict=True):
        line[0] = _marked(line[0], row.marks)
    left = [
        all(isinstance(row.cells[i], str) for row in table.rows) for i in range(len(table.columns))
    ]
    widths = [max(len(line[i]) for line in grid) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in grid
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.insert(0, table.title)
    lines += [f"[{number}] {text}" for number, text in enumerate(table.notes, 1)]
    return "\n".join(lines)


def as_csv(tables: Sequence[Table]) -> str:
    """Tables below each other, each with its title, columns, rows in full precision, notes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, table in enumerate(tables):
        if number:
            writer.writerow([])
        writer.writerow([f"# {table.title}"])
        writer.writerow([*table.columns, "notes"])
        for row in table.rows:
            cells = ["" if cell is None else cell for cell in row.cells]
            writer.writerow([*cells, " ".join(map(str, row.marks))])
        for mark, text in enumerate(table.notes, 1):
            writer.writerow([f"# [{mark}] {text}"])
    return out.getvalue()


def as_latex(table: Table) -> str:
    """A table environment (booktabs), our rows in bold below a rule, notes as small text."""
    align = "".join(
        "l" if all(isinstance(row.cells[i], str) for row in table.rows) else "r"
        for i in range(len(table.columns))
    )
    lines = [
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{{align}}}",
        r"    \toprule",
        "    " + " & ".join(_latex(name) for name in table.columns) + r" \\",
        r"    \midrule",
    ]
    for number, row in enumerate(table.rows):
        if row.ours and number and not table.rows[number - 1].ours:
            lines.append(r"    \midrule")
        cells = [_latex(_shown(cell)) for cell in row.cells]
        if row.marks:
            cells[0] += rf"\textsuperscript{{{','.join(map(str, row.marks))}}}"
        if row.ours and not all(other.ours for other in table.rows):
            cells = [rf"\textbf{{{cell}}}" for cell in cells]
        lines.append("    " + " & ".join(cells) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [
        rf"  \par\footnotesize\textsuperscript{{{mark}}}~{_latex(text)}"
        for mark, text in enumerate(table.notes, 1)
    ]
    return "\n".join([*lines, r"\end{table}"])


def as_values(table: Table) -> dict[str, Any]:
    """A table as plain values for JSON."""
    return {
        "name": table.name,
        "title": table.title,
        "columns": list(table.columns),
        "rows": [
            {"cells": list(row.cells), "ours": row.ours, "notes": list(row.marks)}
            for row in table.rows
        ],
        "notes": list(table.notes),
    }


def _methods(results: Sequence[SplitResult]) -> list[str]:
    named = dict.fromkeys(name for result in results for name in result.methods)
    return [name for name in named if name != MEAN_SHAPE]


def _value(
    by_split: dict[str, SplitResult], protocol: Protocol, column: str, method: str, norm: str
) -> float | None:
    """A cell of our row: the column is a split's name, or a metric of the only split."""
    metric, split = ("nme", column) if column in protocol.sizes else (column, protocol.splits[0])
    if split not in by_split:
        return None
    values = by_split[split].scores[method][norm]
    return None if values is None else values[metric]


def _first(result: SplitResult) -> dict[str, dict[str, float] | None]:
    return next(iter(result.scores.values()))


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def _marked(text: str, marks: tuple[int, ...]) -> str:
    return f"{text} [{','.join(map(str, marks))}]" if marks else text


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {char: f"\\{char}" for char in "&%$#_{}"}
    return "".join(special.get(char, char) for char in text)
