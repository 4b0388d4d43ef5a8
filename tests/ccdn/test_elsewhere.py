"""Everything works on a system without fcntl, resource, select.poll and other Linux features."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ccdn.cli.main import COMMANDS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run(commands: list[list[str]], tmp_path: Path) -> tuple[dict[str, object], str]:
    """The exit codes of commands, by their first two words, and what they said."""
    (tmp_path / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    script = [str(HERE / "elsewhere.py"), str(tmp_path / "commands.json")]
    process = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", *script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout.splitlines()[-1])
    names = [" ".join(words[:2]) for words in commands]
    return dict(zip(names, codes, strict=True)), process.stderr


def test_every_help(tmp_path: Path) -> None:
    codes, _ = run([["--help"], *([name, "--help"] for name in COMMANDS)], tmp_path)
    assert codes == {"--help": 0, **{f"{name} --help": 0 for name in COMMANDS}}


def test_every_command(face_folder: Path, small: list[str], tmp_path: Path) -> None:
    """This takes a lock twice and warns once that the system has no locks."""
    out = tmp_path / "run"
    grid = "config: tiny\nvariants: [fcdn]\nexcitations: [2]\nseeds: [0]\n"
    (tmp_path / "grid.yaml").write_text(grid, encoding="utf-8")
    data = ["--data", str(face_folder)]
    trained = ["--config", "tiny", *data, "--out", str(out), *small, "train.epochs=1"]
    grown = [*data, "--out", str(tmp_path / "grid"), *small]
    weights = ["--weights", str(out / "last.pt")]
    face = [str(face_folder / "face00.png"), "--box", "10,10,80,90", *weights]
    commands = [
        ["train", *trained],
        ["train", "--resume", "--out", str(out)],
        ["train", "--dry-run", *trained],
        ["train", "--print-config", *trained],
        ["evaluate", *weights, "--out", str(tmp_path / "measured")],
        ["report", str(out), "--out", str(tmp_path / "page.html")],
        ["predict", *face, "--out", str(tmp_path / "drawn")],
        ["predict", "nothing.jpg", *weights, "--out", str(tmp_path / "drawn")],
        ["activations", *face, "--out", str(tmp_path / "maps.png")],
        ["export", *weights, "--out", str(tmp_path / "a.safetensors")],
        ["models", "tiny"],
        ["ops"],
        ["data", "inspect", "folder", str(face_folder)],
        ["data", "generate", "--count", "1", "--out", str(tmp_path / "made")],
        ["ablate", "--grid", str(tmp_path / "grid.yaml"), *grown, "train.epochs=1"],
    ]
    codes, said = run(commands, tmp_path)
    assert codes.pop("predict nothing.jpg") == 1
    assert codes == dict.fromkeys(codes, 0), said
    assert said.count("no locks of files") == 1
    assert "Traceback" not in said
