"""A disk that is full and a folder that is read-only: one line, and no half of a file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ccdn import evaluate, train

if sys.platform != "linux":
    pytest.skip("limits and capabilities are Linux's", allow_module_level=True)

COMMANDS = ("train", "ablate", "evaluate", "report", "export", "predict", "predict video")
COMMANDS += ("activations", "inspect")
COMMANDS += tuple(f"synthesize {name}" for name in ("300w", "wflw", "cofw", "aflw"))


@pytest.fixture(scope="module")
def outcomes(
    face_folder: Path, small: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What every command did: faulty_disk.py runs them in one process."""
    folder = tmp_path_factory.mktemp("disk")
    shutil.copytree(face_folder, folder / "faces")
    once = [*small, "train.epochs=1"]
    (folder / "small.json").write_text(json.dumps(once))
    (folder / "grid.yaml").write_text("config: tiny\nvariants: [ccdn]\nseeds: [0]\n")
    film = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 96))
    for _ in range(3):
        film.write(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    film.release()
    run = folder / "run"
    arguments = ["--config", "tiny", "--data", str(face_folder), "--out", str(run)]
    assert train.main([*arguments, *once]) == 0
    assert evaluate.main(["--weights", str(run / "last.pt")]) == 0
    script = Path(__file__).with_name("faulty_disk.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command: str, outcomes: dict[str, Any]) -> None:
    found = outcomes[f"full: {command}"]
    # A training that was going on cannot; the others could not be done.
    assert found["code"] == {"train": 1, "ablate": 1}.get(command, 2), found
    assert "File too large" in found["error"] or "is the disk full?" in found["error"]
    said = found["error"].strip().splitlines()
    assert said[-1].startswith("ccdn."), said
    assert any(f"full {command}" in line for line in said), "no file is named"
    assert not [name for name in found["left"] if name.endswith(".tmp")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder_is_one_line(command: str, outcomes: dict[str, Any]) -> None:
    found = outcomes[f"read-only: {command}"]
    assert found["code"] == 2, found
    assert found["error"].strip().splitlines()[-1].startswith("ccdn."), found
    assert "Permission denied" in found["error"]
    assert found["left"] == []
