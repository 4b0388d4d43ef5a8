"""Several threads of a process get what each would get alone."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from together import SECONDS, together

import ccdn
from ccdn.data import detect_faces
from ccdn.data.detection import haar
from ccdn.runtime.files import atomic_write
from ccdn.runtime.locks import BusyError, Lock
from ccdn.runtime.quiet import no_warnings
from ccdn.synthetic_faces import SyntheticFaces

THREADS = 4


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Two pictures with a face, which threads could take for each other, one with two, and one
    without any, uint8 RGB.
    """
    faces = SyntheticFaces(3, seed=3, pose=10, occlusion=0)
    found = [faces.image(index) for index in range(3)]
    both = np.concatenate([found[1], found[2]], 1)
    return [found[0], found[1], both, np.full((160, 160, 3), 90, np.uint8)]


def test_a_predictor_is_shared(pictures: list[np.ndarray]) -> None:
    predictor = ccdn.Predictor()
    alone = [predictor(picture) for picture in pictures]
    assert [len(faces) for faces in alone] == [1, 1, 2, 0]

    def serve(first: int) -> list[Any]:
        order = [(first + i) % len(pictures) for i in range(2 * len(pictures))]
        return [(index, predictor(pictures[index])) for index in order]

    for served in together(serve, THREADS):
        for index, faces in served:
            np.testing.assert_array_equal(faces.boxes, alone[index].boxes)
            np.testing.assert_array_equal(faces.landmarks, alone[index].landmarks)


def test_no_two_threads_use_one_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are in the middle of a search at the same time, and then once more."""
    inside = threading.Barrier(THREADS)
    made: list[object] = []

    class Cascade:
        def __init__(self) -> None:
            self.searches = 0
            made.append(self)

        def detectMultiScale(self, *_: object, **__: object) -> list[list[int]]:  # noqa: N802
            self.searches += 1
            inside.wait(SECONDS)
            assert self.searches == 1
            inside.wait(SECONDS)
            self.searches -= 1
            return [[4, 4, 20, 20]]

    monkeypatch.setattr(haar, "_load_cascade", Cascade)
    monkeypatch.setattr(haar, "_idle", deque())
    image = np.zeros((40, 40, 3), np.uint8)
    for _ in range(2):
        together(lambda _: detect_faces(image), THREADS)
        assert len(made) == THREADS  # the second time those of the first


def test_faces_of_one_size_come_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's own threads put them in any."""
    rectangles = [[30, 4, 20, 20], [4, 30, 20, 20], [4, 4, 20, 20], [60, 60, 24, 24]]
    orders = [rectangles, rectangles[::-1]]

    class Cascade:
        def detectMultiScale(self, *_: object, **__: object) -> np.ndarray:  # noqa: N802
            return np.array(orders.pop(), np.int32)

    monkeypatch.setattr(haar, "_load_cascade", Cascade)
    monkeypatch.setattr(haar, "_idle", deque())
    image = np.zeros((90, 90, 3), np.uint8)
    first, second = detect_faces(image), detect_faces(image)
    np.testing.assert_array_equal(first, second)
    assert [box[2] - box[0] for box in first] == sorted((b[2] - b[0] for b in first), reverse=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_while_a_thread_searches(pictures: list[np.ndarray]) -> None:
    """The child does not touch what the thread, which it does not have, was using."""
    rgb = pictures[2]
    expected = detect_faces(rgb)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        cv2.setNumThreads(0)
        send.send(detect_faces(rgb))

    with haar._cascade() as in_use:
        process = context.Process(target=child, daemon=True)
        process.start()
        try:
            assert receive.poll(SECONDS)
            np.testing.assert_array_equal(receive.recv(), expected)
        finally:
            process.kill()
            process.join()
        assert all(idle is not in_use for idle in haar._idle)


def test_generated_faces_are_shared() -> None:
    """Every thread gets the picture it asked for, also when all are made at the same time and
    many more than are kept.
    """
    alone = SyntheticFaces(THREADS, size=32)
    expected = [alone.image(index) for index in range(THREADS)]
    kept = threading.Barrier(THREADS)

    class Together(SyntheticFaces):
        """All keep the picture that they have made, and then all continue."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_last" and value is not None:
                kept.wait(SECONDS)

    for index, picture in enumerate(together(Together(THREADS, size=32).image, THREADS)):
        np.testing.assert_array_equal(picture, expected[index])

    many = SyntheticFaces(200, size=32)
    landmarks = [many.face(index).landmarks for index in range(200)]

    def read(first: int) -> None:
        for index in [(first * 50 + i) % 200 for i in range(200)]:
            np.testing.assert_array_equal(many.face(index).landmarks, landmarks[index])

    together(read, THREADS)


def test_silence_ends_when_the_last_has_left() -> None:
    """Two blocks that overlap: the first to enter is the first to leave."""
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def quiet(number: int) -> None:
        if number == 0:
            with no_warnings():
                first_in.set()
                assert second_in.wait(SECONDS)
            first_out.set()
            return
        assert first_in.wait(SECONDS)
        with no_warnings():
            second_in.set()
            assert first_out.wait(SECONDS)
            warnings.warn("of the block that is still active", stacklevel=1)

    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        together(quiet, 2)
        assert warnings.filters == inside
        assert warned == []
        warnings.warn("after it", stacklevel=1)
    assert [str(warning.message) for warning in warned] == ["after it"]
    assert warnings.filters == before


def test_predictors_are_made_at_the_same_time() -> None:
    before = list(warnings.filters)
    weights = [
        {name: value.sum() for name, value in predictor.model.state_dict().items()}
        for predictor in together(lambda _: ccdn.Predictor(), THREADS)
    ]
    assert all(found == weights[0] for found in weights)
    assert warnings.filters == before


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
def test_files_get_the_umask_which_never_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the umask means setting it, for every thread of the process."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.delattr(os, "umask")
            with atomic_write(tmp_path / "file") as file:
                file.write(b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert (tmp_path / "file").read_bytes() == b"content"


TAKE = """
import sys
from pathlib import Path
from ccdn.runtime.locks import BusyError, Lock
with Lock(Path(sys.argv[1])) as lock:
    try:
        lock.take()
    except BusyError:
        print("busy")
"""


def test_two_locks_of_one_process(tmp_path: Path) -> None:
    """The second is refused, whatever name the folder goes by, and does not let go of the first."""
    pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    with Lock(folder / ".lock") as lock:
        lock.take()
        other = Path(os.path.relpath(folder)) / ".lock"
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"), Lock(other) as second:
            second.take()
        command = [sys.executable, "-c", TAKE, str(folder / ".lock")]
        assert subprocess.check_output(command, text=True) == "busy\n"
    with Lock(folder / ".lock") as lock:
        lock.take()
