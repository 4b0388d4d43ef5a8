"""Damaged files: whatever is in them, the parsers end in faces or in a DataError. hypothesis
damages text, `mutants.py` binary formats, which are read in processes that may die.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats import NAMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import survive

from ccdn.data import DataError, FaceSet, open_faces, read_pts
from ccdn.data.images import cv2

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official one")

SECONDS = 75  # of each long search: more than five minutes for all parsers
_FIELDS = [str(10 + i / 10) for i in range(196)] + ["9", "9", "31", "31"] + ["0"] * 6 + ["a.png"]
_HEADER = "image_name,scale,center_w,center_h,original_0_x,original_0_y,original_1_x,original_1_y"
_FACE = {"image_id": 1, "id": 1, "keypoints": [1, 2, 2, 3, 4.5, 1], "bbox": [0, 0, 9, 9]}
_SIZED = {**_FACE, "id": 2, "center": [4, 5], "scale": 0.1}
VALID = {
    "pts": "version: 1\nn_points:  3\n{\n1.5 2\n3 4\n5 6\n}\n",
    "wflw": "\n".join([" ".join(_FIELDS)] * 2),
    "hrnet": f"{_HEADER}\na.png,0.1,5,5,1,2,3,4\na.png,0.2,6,6,1,2,3.5,4\n",
    "folder": "image,x0,y0,x1,y1,box_left,box_top,box_right,box_bottom\n"
    + "a.png,1,2,3,4,0,0,9,9\na.png,1,2,3,5,0,0,9,9\n",
    "coco": json.dumps(
        {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [_FACE, _SIZED]}
    ),
}
# What a text is likely to break on.
_SNAGS = ("nan", "-inf", "1e400", "1e38", "-1", "0", "", " ", "\n", "\r", ",", '"', "{", "}", "[")
_MORE = (
    "]",
    "null",
    "true",
    "1_0",
    "٣",
    "\x00",
    "\ufeff",
    "n_points: 4",
    ":",
    "9" * 5000,
    "..",
    "/",
)
_PIECES = st.one_of(st.sampled_from([*_SNAGS, *_MORE]), st.text(max_size=6), st.binary(max_size=6))


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """The text with some places replaced, cut out, doubled or swapped."""
    content = text.encode()
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 2, 5, 40, 10**6])))
        how = draw(st.sampled_from(["replace", "double", "move"]))
        if how == "replace":
            piece = draw(_PIECES)
            piece = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
            content = content[:start] + piece + content[end:]
        elif how == "double":
            content = content[:end] + content[start:]
        else:
            content = content[:start] + content[end:] + content[start:end]
    return content


def parse(kind: str, folder: Path, content: bytes) -> None:
    """Read a file; only a DataError may come out, and nothing but finite landmarks."""
    names = {
        "pts": "a.pts",
        "wflw": "list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt",
        "hrnet": "face_landmarks_a_train.csv",
        "folder": "images/faces.csv",
        "coco": "train.json",
    }
    path = folder / names[kind]
    path.write_bytes(content)
    reads: list[Callable[[], Any]] = [lambda: read_pts(path)]
    if kind != "pts":
        root = path if kind == "folder" else folder
        reads = [lambda s=s: open_faces(kind, root, "train", skip_bad=s) for s in (False, True)]
    for read in reads:
        try:
            found = read()
        except DataError:
            continue
        landmarks = [found] if isinstance(found, np.ndarray) else points_of(found)
        for points in landmarks:
            assert points.dtype == np.float32
            assert points.ndim == 2
            assert np.isfinite(points).all()


def points_of(faces: FaceSet) -> list[np.ndarray]:
    found = []
    for index in range(len(faces)):
        face = faces.face(index)
        assert face.box is None or (face.box[:2] < face.box[2:]).all()
        found.append(face.landmarks)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    (made / "list_98pt_rect_attr_train_test").mkdir()
    for place in ("images", "WFLW_images"):
        (made / place).mkdir()
        assert cv2.imwrite(str(made / place / "a.png"), np.zeros((16, 16, 3), np.uint8))
    return made


_COMMON = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("kind", list(VALID))
def test_the_undamaged_file_is_read(kind: str, folder: Path) -> None:
    parse(kind, folder, VALID[kind].encode())
    if kind != "pts":
        root = folder / "images" / "faces.csv" if kind == "folder" else folder
        assert len(open_faces(kind, root, "train")) == 2


@pytest.mark.parametrize("kind", list(VALID))
def test_damaged_files_give_clean_errors(kind: str, folder: Path) -> None:
    @settings(_COMMON, max_examples=150)
    @given(damaged(VALID[kind]))
    def check(content: bytes) -> None:
        parse(kind, folder, content)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(VALID))
def test_damaged_files_for_minutes(kind: str, folder: Path) -> None:
    end = time.monotonic() + SECONDS
    seed = 0
    while time.monotonic() < end:

        @settings(_COMMON, max_examples=2000, database=None, derandomize=False)
        @given(damaged(VALID[kind]))
        def check(content: bytes) -> None:
            if time.monotonic() < end:
                parse(kind, folder, content)

        check()
        seed += 1
    assert seed > 0


# ---- binary formats ----------------------------------------------------------------------------


def test_a_reader_that_fails_is_seen() -> None:
    """An exception, a crash, a hang and memory that grows are told, each with its mutant, and what
    comes after is read all the same.
    """
    wrong = survive(["raise", "crash", "hoard"], 2) + survive(["hang"], 1, seconds=0.5)
    assert [line.split(maxsplit=2) for line in wrong] == [
        ["raise", "0", "RuntimeError: 'not seen before'"],
        ["raise", "1", "RuntimeError: 'not seen before'"],
        ["crash", "0", f"the process ended with {-signal.SIGSEGV}"],
        ["crash", "1", f"the process ended with {-signal.SIGSEGV}"],
        ["hoard", "0", "1536 MiB stay in use"],
        ["hoard", "1", "MemoryError: ''"],
        ["hang", "0", f"the process ended with {-signal.SIGPROF}"],
    ]


def test_damaged_binary_files() -> None:
    assert survive(NAMES, 100) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_binary_files(name: str) -> None:
    assert survive([name], 10_000) == []
