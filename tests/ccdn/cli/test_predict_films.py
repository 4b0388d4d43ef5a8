"""`ccdn predict` of videos and cameras."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from predicting import run, use_detector

from ccdn.inference import sources


def write_video(path: Path, frames: Sequence[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def test_a_video(
    weights: Path, tmp_path: Path, face_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [cv2.imread(str(path)) for path in sorted(face_folder.glob("*.png"))[:7]]
    write_video(tmp_path / "film.avi", frames)
    boxes = iter([[np.array([10.0 + i, 10, 80, 90])] * (i >= 3) for i in range(7)])
    use_detector(monkeypatch, lambda image: next(boxes))
    out = tmp_path / "out"
    arguments = ["--weights", weights, "--out", out, "--detect-every", "1", "--no-smooth"]
    assert run(tmp_path / "film.avi", *arguments, "--write", "picture,json,csv") == 0
    found = json.loads((out / "film.json").read_text())
    assert [len(frame["faces"]) for frame in found["frames"]] == [0, 0, 0, 1, 1, 1, 1]
    assert (found["width"], found["height"], found["frames_per_second"]) == (96, 96, 10)
    (face,) = found["frames"][3]["faces"]
    x, y = np.transpose(face["landmarks"])
    assert face["box"] == [x.min(), y.min(), x.max(), y.max()]
    rows = list(csv.DictReader((out / "film.csv").open()))
    assert [(row["frame"], row["id"]) for row in rows] == [(str(i), "0") for i in range(3, 7)]
    assert {frame["faces"][0]["id"] for frame in found["frames"][3:]} == {0}
    film = cv2.VideoCapture(str(out / "film_landmarks.mp4"))
    drawn = []
    while (read := film.read())[0]:
        drawn.append(read[1])
    assert len(drawn) == 7
    changed = [np.abs(a.astype(int) - b).max() > 100 for a, b in zip(drawn, frames, strict=True)]
    assert changed == [False, False, False, True, True, True, True]


class FakeCamera:
    """What cv2.VideoCapture gives for a camera: frames without end, no rate."""

    def __init__(self, place: Any) -> None:
        self.place = place

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return self.place == 3

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.full((60, 60, 3), 90, np.uint8)

    def release(self) -> None:
        pass


def test_a_camera(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources.cv2, "VideoCapture", FakeCamera)
    out = tmp_path / "out"
    arguments = ["--weights", weights, "--out", out, "--frames", "4", "--write", "json"]
    assert run("camera:3", *arguments) == 3  # it films a wall
    assert "camera:3: 0 faces in 4 frames" in capsys.readouterr().out
    found = json.loads((out / "camera_3.json").read_text())
    assert [frame["frame"] for frame in found["frames"]] == [0, 1, 2, 3]
    times = [frame["time"] for frame in found["frames"]]
    assert times == sorted(times)
    assert found["frames_per_second"] == pytest.approx(3 / times[3], rel=0.1)  # as they came
    assert run("camera:0", *arguments) == 1
    error = capsys.readouterr().err
    assert "camera:0: expected a camera that is plugged in and that no other program uses" in error
    assert run("camera:x", *arguments) == 2
    assert "camera:x: expected the number of a camera" in capsys.readouterr().err


def test_an_invalid_video_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    arguments = ["--weights", weights, "--out", tmp_path / "out"]
    assert run(tmp_path / "film.mp4", tmp_path / "gone.avi", *arguments) == 1
    printed = capsys.readouterr()
    assert "film.mp4: expected a video that OpenCV can read" in printed.err
    assert "gone.avi: video not found" in printed.err
    assert "2 inputs: 0 written" in printed.out
    assert run(tmp_path / "film.mp4", *arguments, "--box", "1,1,5,5") == 2
    assert "go with one picture, found a video" in capsys.readouterr().err


def test_a_camera_that_does_not_exist(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line tells, and none of OpenCV's."""
    for number in (64, 99999999999999999999):
        assert run(f"camera:{number}", "--weights", weights, "--out", tmp_path / "out") == 1
        (line,) = capfd.readouterr().err.splitlines()
        start, end = line.split("; ")
        assert start == (
            f"ccdn predict: camera:{number}: expected a camera that is plugged in and that no other"
            " program uses, it cannot be opened"
        )
        assert re.fullmatch(r"this machine has (none|camera:\d+.*)", end)
