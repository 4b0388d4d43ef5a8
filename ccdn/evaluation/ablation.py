"""A grid of runs, the scores of each cell, and the tables over its seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict

from ccdn.config import GRID_FOLDER, ConfigError, read_yaml, resolve
from ccdn.data import DataError
from ccdn.evaluation.metrics import NORMS
from ccdn.evaluation.result_files import read_results
from ccdn.evaluation.tables import NORM_NAMES, Row, Table, as_csv, as_latex
from ccdn.runtime.files import atomic_write
from ccdn.runtime.validation import Count, FieldError, Natural, Number, Text, validated

Variant = Literal["baseline", "fcdn", "ccdn"]
# What a variant changes in any configuration.
VARIANTS: dict[Variant, tuple[str, ...]] = {
    "baseline": ("model.ctm=false",),
    "fcdn": ("model.ctm=true", "model.orders=1"),
    "ccdn": ("model.ctm=true", "model.orders=2"),
}
NAMES: dict[Variant, str] = {"baseline": "Baseline", "fcdn": "FCDN", "ccdn": "CCDN"}


def _none_or_three(gammas: list[float]) -> list[float]:
    if len(gammas) not in (0, 3):
        raise ValueError(f"expected 3 each, of T, T-1 and G; found {gammas}")
    return gammas


@dataclass
class Grid:
    """variant x excitations x gammas x seeds over one configuration.

    gammas: weights of COCS at T, T-1 and G; an empty one keeps the configuration's. The Baseline
    has neither excitations nor COCS: it is one row.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    config: Text = "small"
    variants: list[Variant] = field(default_factory=lambda: [*VARIANTS])
    excitations: list[Count] = field(default_factory=lambda: [4])
    gammas: list[Annotated[list[Number], AfterValidator(_none_or_three)]] = field(
        default_factory=lambda: [[]]
    )
    seeds: list[Natural] = field(default_factory=lambda: [0, 1, 2])
    overrides: list[Text] = field(default_factory=list)  # section.field=value, of every cell


@dataclass(frozen=True)
class Cell:
    """A run of a grid; `excitations` 0 and no gammas for the Baseline."""

    variant: Variant
    excitations: int
    gammas: tuple[float, ...]
    seed: int

    @property
    def row(self) -> tuple[Variant, int, tuple[float, ...]]:
        """What the seeds are averaged over."""
        return self.variant, self.excitations, self.gammas

    @property
    def name(self) -> str:
        """The folder of the run."""
        parts: list[str] = [self.variant]
        parts += [f"p{self.excitations}"] if self.excitations else []
        parts += ["g" + "-".join(f"{gamma:g}" for gamma in self.gammas)] if self.gammas else []
        return "_".join([*parts, f"seed{self.seed}"])

    def overrides(self) -> list[str]:
        """The fields of the configuration that make this cell."""
        found = [*VARIANTS[self.variant], f"train.seed={self.seed}"]
        if self.excitations:
            found.append(f"model.excitations={self.excitations}")
        pairs = zip(("t", "t1", "g"), self.gammas, strict=False)
        return found + [f"train.cocs.{level}={gamma}" for level, gamma in pairs]


def grids() -> list[str]:
    """The names of the grids bundled with the package."""
    return sorted(path.stem for path in GRID_FOLDER.glob("*.yaml"))


def load_grid(name_or_path: str) -> Grid:
    """Read a grid bundled with the package, or a YAML file. Raises ConfigError, in one line."""
    path = Path(name_or_path)
    if not path.is_file():
        path = GRID_FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"no grid {name_or_path!r}: neither a file nor one of {', '.join(grids())}"
        )
    try:
        grid = validated(Grid, resolve(read_yaml(path, "the fields of a grid"), str(path)))
    except FieldError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not cells(grid):
        raise ConfigError(f"{path}: the grid is empty")
    return grid


def cells(grid: Grid) -> list[Cell]:
    """Every run of the grid once, all rows of a seed before those of the next."""

    def generate() -> Iterator[Cell]:
        for seed in grid.seeds:
            for variant in grid.variants:
                if variant == "baseline":
                    yield Cell(variant, 0, (), seed)
                    continue
                for excitations in grid.excitations:
                    for gammas in grid.gammas:
                        yield Cell(variant, excitations, tuple(gammas), seed)

    return list(dict.fromkeys(generate()))


def check_overrides(grid: Grid) -> None:
    """Raise ConfigError for an override that a cell of the grid has another value for: the cell's
    would win.
    """
    for cell in cells(grid):
        own = dict(text.split("=") for text in cell.overrides())
        for text in grid.overrides:
            key, _, value = text.partition("=")
            if own.get(key, value) != value:
                raise ConfigError(
                    f"override {text!r}: the grid has {key}={own[key]} in {cell.name}; a grid of"
                    " your own may have other variants, excitations, gammas or seeds (see"
                    f" {GRID_FOLDER / 'table7.yaml'})"
                )


def read_scores(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """split -> norm -> the scores in % from a cell's results.json; empty if there is no such file.
    Raises DataError for a damaged file.
    """
    path = folder / "results.json"
    if not path.exists():
        return {}
    splits = read_results(path)["splits"]
    for split, found in splits.items():
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise DataError(
                f"{path}: expected the scores of the run's own weights in {split}, found none;"
                " the grid measures it anew when the file is gone"
            )
    return {
        split: {norm: found["model"][norm] for norm in NORMS if found["model"].get(norm)}
        for split, found in splits.items()
    }


def make_table(grid: Grid, out: Path) -> Table:
    """NME in %, mean ± sample deviation over the seeds done, of each row, split and norm."""
    scores = {cell: read_scores(out / cell.name) for cell in cells(grid)}
    columns = list(
        dict.fromkeys(
            (split, norm) for found in scores.values() for split in found for norm in found[split]
        )
    )
    rows = []
    for row in dict.fromkeys(cell.row for cell in scores):
        variant, excitations, gammas = row
        own = [found for cell, found in scores.items() if cell.row == row and found]
        entries = [
            _mean([f[split][norm]["nme"] for f in own if norm in f.get(split, {})])
            for split, norm in columns
        ]
        weights = " ".join(f"{gamma:g}" for gamma in gammas)
        named = (NAMES[variant], str(excitations or "-"), weights or "-", str(len(own)))
        rows.append(Row((*named, *entries)))
    headings = [f"{split}, {NORM_NAMES[norm]}" for split, norm in columns]
    title = "NME in %, mean ± sample deviation over the seeds"
    fixed = ("variant", "P", "gamma of T, T-1, G", "seeds")
    return Table("ablation", title, (*fixed, *headings), tuple(rows))


def as_markdown(table: Table) -> str:
    """A table of text in Markdown, its title below."""
    rule = ["---"] * len(table.columns)
    lines = [table.columns, rule, *(row.cells for row in table.rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines) + f"\n{table.title}\n"


def write_tables(grid: Grid, out: Path) -> Table:
    """Write table.md, table.csv, table.tex, and cells.csv with a line for each score."""
    table = make_table(grid, out)
    texts = {
        "table.md": as_markdown(table),
        "table.csv": as_csv([table]),
        "table.tex": as_latex(table),
        "cells.csv": _cells_csv(grid, out),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as file:
            file.write(text.encode())
    return table


def _cells_csv(grid: Grid, out: Path) -> str:
    lines: list[list[Any]] = []
    for cell in cells(grid):
        own = [cell.variant, cell.excitations, *(cell.gammas or ("", "", "")), cell.seed]
        for split, norms in read_scores(out / cell.name).items():
            for norm, found in norms.items():
                lines.append([*own, split, norm, found["nme"], found["fr10"], found["auc8"]])
    names = ["variant", "excitations", "gamma_t", "gamma_t1", "gamma_g", "seed", "split", "norm"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[*names, "nme", "fr10", "auc8"], *lines])
    return text.getvalue()


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"
