"""`ccdn ablate`: each run happens once, whatever stops the grid; tables over the seeds."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from locked import held_by_another
from torchruns import one_node

from ccdn.checkpoint.load import load_checkpoint
from ccdn.cli import evaluate, train
from ccdn.cli.ablate import CLAIM, main
from ccdn.config import ConfigError, load_config
from ccdn.data import DataError
from ccdn.evaluation.ablation import (
    Cell,
    Grid,
    as_markdown,
    cells,
    grids,
    load_grid,
    make_table,
    write_tables,
)


@pytest.mark.parametrize("name", grids())
def test_the_bundled_grids(name: str) -> None:
    """Every row is a configuration."""
    grid = load_grid(name)
    for cell in [cell for cell in cells(grid) if cell.seed == grid.seeds[0]]:
        config = load_config(grid.config, [*grid.overrides, *cell.overrides()])
        assert config.train.seed == cell.seed
        assert config.model.ctm == (cell.variant != "baseline")


def test_table_6_has_the_paper_s_weights() -> None:
    first = [cell for cell in cells(load_grid("table6")) if cell.seed == 0]
    found = [load_config("paper", cell.overrides()).train.cocs.gammas() for cell in first]
    a, b, c = 0.01, 0.025, 0.05
    assert found == [(a, a, a), (a, a, b), (b, a, b), (b, a, c), (b, a, 0.1)]


def test_the_baseline_is_one_row_of_each_seed() -> None:
    grid = Grid(variants=["baseline", "ccdn"], excitations=[1, 4], gammas=[[], [1.0, 2.0, 3.0]])
    names = [cell.name for cell in cells(grid)]
    rows = ["baseline", "ccdn_p1", "ccdn_p1_g1-2-3", "ccdn_p4", "ccdn_p4_g1-2-3"]
    assert names[:5] == [f"{row}_seed0" for row in rows]
    assert len(names) == len(set(names)) == 15


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: [alexnet]", "found 'alexnet'"),
        ("gammas: [[0.1, 0.2]]", "gammas[0]: expected 3 each"),
        ("excitations: [0]", "excitations[0]: expected at least 1, found 0"),
        ("gammas: [[0, 0, x]]", "gammas[0][2]: expected a number, found 'x'"),
        ("config: '${nowhere}'", "'nowhere' not found"),
        ("seeds: []", "the grid is empty"),
        ("seed: [1]", "seed: unknown field; expected some of config, variants"),
        ("- 1", "expected the fields of a grid"),
        ("", "found an empty file"),
        ("[" * 9999, "flow"),  # versions of YAML word it differently
        (b"\xff\xfe", "decode"),
    ],
)
def test_a_grid_that_cannot_be_used(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"own\.yaml") as error:
        load_grid(str(path))
    assert message in str(error.value)


def scores(nme: float) -> dict[str, float]:
    return {"nme": nme, "fr10": 1.0, "auc8": 50.0}


def test_tables_average_over_the_seeds_done(tmp_path: Path) -> None:
    grid = Grid(variants=["baseline", "ccdn"], seeds=[0, 1, 2])
    values = {("baseline", 0): 5.0, ("ccdn", 0): 3.0, ("ccdn", 1): 3.5, ("ccdn", 2): 3.1}
    for (variant, seed), value in values.items():
        folder = tmp_path / Cell(variant, 4 * (variant == "ccdn"), (), seed).name
        folder.mkdir()
        splits = {"test": {"model": {"inter_ocular": scores(value), "inter_pupil": None}}}
        (folder / "results.json").write_text(json.dumps({"splits": splits}))
    table = write_tables(grid, tmp_path)
    deviation = statistics.stdev([3.0, 3.5, 3.1])
    rows = [
        ("Baseline", "-", "-", "1", "5.00"),
        ("CCDN", "4", "-", "3", f"3.20 ± {deviation:.2f}"),
    ]
    assert [row.cells for row in table.rows] == rows
    assert table.columns[-1] == "test, inter-ocular"
    assert f"| CCDN | 4 | - | 3 | 3.20 ± {deviation:.2f} |" in (tmp_path / "table.md").read_text()
    assert rf"CCDN & 4 & - & 3 & 3.20 ± {deviation:.2f} \\" in (tmp_path / "table.tex").read_text()
    assert f"CCDN,4,-,3,3.20 ± {deviation:.2f}" in (tmp_path / "table.csv").read_text()
    with (tmp_path / "cells.csv").open() as file:
        assert [float(row["nme"]) for row in csv.DictReader(file)] == [5.0, 3.0, 3.5, 3.1]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"splits": 5}', b"\xff\xfe", b"[" * 99999])
def test_damaged_results_of_a_run_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ccdn_p4_seed0").mkdir()
    (tmp_path / "ccdn_p4_seed0/results.json").write_bytes(content)
    with pytest.raises(DataError, match=r"ccdn_p4_seed0.results\.json: "):
        make_table(Grid(variants=["ccdn"], seeds=[0]), tmp_path)


def test_results_of_other_methods_are_not_the_run_s(tmp_path: Path) -> None:
    """As after `evaluate --weights ours=...`, which writes into the folder of the weights."""
    (tmp_path / "ccdn_p4_seed0").mkdir()
    splits = {"test": {"others": {"ours": {"inter_ocular": scores(3.0)}}}}
    (tmp_path / "ccdn_p4_seed0/results.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(DataError, match=r"results\.json: expected the scores of the run's own"):
        make_table(Grid(variants=["ccdn"], seeds=[0]), tmp_path)


def test_a_run_that_went_on_is_measured_again(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(arguments: list[str]) -> int:
        weights = Path(arguments[1])
        measured.append(load_checkpoint(weights).step)
        splits = {"train": {"model": {"inter_ocular": scores(float(measured[-1]))}}}
        content = {"splits": splits, "trained_steps": measured[-1]}
        weights.with_name("results.json").write_text(json.dumps(content))
        return 0

    monkeypatch.setattr(evaluate, "main", measure)
    path = tmp_path / "own.yaml"
    path.write_text("config: tiny\nvariants: [baseline]\nseeds: [0]\n")
    faces = ["--data", str(face_folder), "train.schedule=constant"]
    command = ["--grid", str(path), "--out", str(tmp_path / "out"), *small, *faces]
    assert main([*command, "train.epochs=1"]) == 0
    assert main([*command, "train.epochs=2"]) == 0
    assert main([*command, "train.epochs=2"]) == 0
    first, second = measured
    assert second == 2 * first
    assert f"| Baseline | - | - | 1 | {second:.2f} |" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("torchrun 'x", "No closing quotation"),
        (" ", "expected a command"),
        ("no-such-program", "No such file"),
    ],
)
def test_a_launcher_that_cannot_start(
    launcher: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("config: tiny\nvariants: [fcdn]\nseeds: [0]\n")
    out = ["--out", str(tmp_path / "out"), "--launcher", launcher]
    assert main(["--grid", str(path), *out]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_training_that_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As by the system, when memory runs out; the exit code is a shell's."""
    path = tmp_path / "own.yaml"
    path.write_text("config: tiny\nvariants: [fcdn]\nseeds: [0]\n")
    kills = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    out = ["--out", str(tmp_path / "out"), "--launcher", shlex.join(kills)]
    assert main(["--grid", str(path), *out]) == 128 + signal.SIGKILL
    assert capsys.readouterr().err.splitlines()[-1].endswith("ended with exit code 137")


@pytest.mark.slow
def test_a_launcher_trains_with_its_processes(
    face_folder: Path, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("config: tiny\nvariants: [fcdn]\nexcitations: [2]\nseeds: [0]\n")
    out = tmp_path / "out"
    faces = ["--data", str(face_folder), "train.epochs=1", "data.eval_splits=[train]"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launcher = ["--launcher", shlex.join(one_node(2))]
    assert main(["--grid", str(path), "--out", str(out), *launcher, *small, *faces]) == 0
    assert load_checkpoint(out / "fcdn_p2_seed0/last.pt").processes == 2
    assert (out / "table.md").read_text().count("| FCDN | 2 | - | 1 |") == 1


def two_runs(path: Path, out: Path, faces: Path, more: list[str]) -> list[str]:
    """Write a grid of a Baseline and an FCDN; the arguments that train it."""
    path.write_text("config: tiny\nvariants: [baseline, fcdn]\nexcitations: [2]\nseeds: [0]\n")
    own = ["--grid", str(path), "--out", str(out), "--data", str(faces)]
    return [*own, *more, "data.eval_splits=[train]"]


def test_a_grid_resumes_where_it_stopped(
    face_folder: Path,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "own.yaml", tmp_path / "out"
    command = two_runs(path, out, face_folder, [*small, "train.epochs=2"])

    trained: list[str] = []
    real = train.main

    def stopped(arguments: list[str]) -> int:
        """The second run ends in its middle, as after a signal."""
        trained.append(arguments[arguments.index("--out") + 1])
        shorter = ["train.epochs=1", "train.schedule=constant"] if len(trained) == 2 else []
        code = real([*arguments, "train.schedule=constant", *shorter])
        return 143 if shorter else code

    monkeypatch.setattr(train, "main", stopped)
    assert main(command) == 143
    done = out / "baseline_seed0/results.json"
    written = done.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in listed] == ["done", "open"]
    assert main(command) == 0
    assert "resuming after step 5" in capsys.readouterr().err
    assert done.stat().st_mtime_ns == written
    grid = load_grid(str(path))
    table = make_table(grid, out)
    assert [row.cells[3] for row in table.rows] == ["1", "1"]
    assert (out / "table.md").read_text() == as_markdown(table)
    # Another configuration is another grid.
    assert main([*command, "train.lr=1"]) == 2
    assert "train.lr was" in capsys.readouterr().err


def test_commands_share_the_runs_of_a_grid(
    face_folder: Path,
    small: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = tmp_path / "own.yaml", tmp_path / "out"
    command = two_runs(path, out, face_folder, [*small, "train.epochs=1"])
    with held_by_another(out / "baseline_seed0" / CLAIM) as other:
        assert main(command) == 0
    said = capsys.readouterr()
    assert f"baseline_seed0: folder is in use by process {other.pid} on " in said.err
    assert said.err.count("left to it") == 2  # checked again when everything else was done
    assert said.out.splitlines()[-1].endswith("will write the tables: baseline_seed0")
    assert (out / "fcdn_p2_seed0/results.json").exists()
    assert "| Baseline | - | - | 0 |" in (out / "table.md").read_text()
    # The other command was killed: its run is free.
    assert main(command) == 0
    said = capsys.readouterr()
    assert "left to it" not in said.err
    assert "| Baseline | - | - | 1 |" in (out / "table.md").read_text()
    assert not [*out.rglob(CLAIM)]


def test_an_override_of_what_the_grid_varies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--grid", "table7", "--out", str(tmp_path / "out"), "--list"]
    assert main([*out, "train.epochs=5"]) == 0
    assert main([*out, "model.excitations=2"]) == 2
    errors = capsys.readouterr().err
    assert (
        "override 'model.excitations=2': the grid has model.excitations=1 in ccdn_p1_seed0"
        in errors
    )


LAUNCHER = """
import signal, sys, time
from pathlib import Path

received = []
for which in (signal.SIGINT, signal.SIGTERM):
    signal.signal(which, lambda number, frame: received.append(number))
Path(sys.argv[1], "started").touch()
while not received:
    time.sleep(0.01)
time.sleep(1.0)  # a step and a checkpoint
Path(sys.argv[1], "saved").write_text(str(received))
sys.exit(1)  # as torchrun does
"""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_what_the_launcher_started(which: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C of a terminal goes to the whole group: the child has to get it once all the same."""
    (tmp_path / "own.yaml").write_text("config: tiny\nvariants: [fcdn]\nseeds: [0]\n")
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    launcher = shlex.join([sys.executable, str(tmp_path / "launcher.py"), str(tmp_path)])
    command = [sys.executable, "-m", "ccdn", "ablate", "--grid", str(tmp_path / "own.yaml")]
    command += ["--out", str(tmp_path / "out"), "--launcher", launcher]
    with subprocess.Popen(command, start_new_session=True) as process:
        limit = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        os.killpg(process.pid, which)
        assert process.wait(timeout=60) == 128 + which
    assert (tmp_path / "saved").read_text() == str([int(which)])
