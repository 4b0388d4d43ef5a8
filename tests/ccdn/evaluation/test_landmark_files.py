"""Files of predictions: three formats, faces found by name, shape or order, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccdn.data import DataError
from ccdn.evaluation.landmark_files import read_predictions, write_predictions
from ccdn.evaluation.scoring import Reference

FACES = 5


@pytest.fixture
def reference() -> Reference:
    truth = np.random.default_rng(0).uniform(10, 90, (FACES, 68, 2))
    boxes = np.concatenate([truth.min(1), truth.max(1)], 1)
    names = [f"test/{i + 1:04d}" for i in range(FACES)]
    return Reference(names, truth, boxes, {"test": np.arange(FACES), "odd": np.array([1, 3])})


def test_what_is_written_reads_back(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    write_predictions(path, reference, {"a": reference.truth + 1, "b": reference.truth})
    file = read_predictions(path)
    assert np.array_equal(file.predicted, reference.truth + 1)
    again = file.reference({})
    assert np.array_equal(again.truth, reference.truth)
    assert np.allclose(again.boxes, reference.boxes)
    assert list(again.subsets["odd"]) == [1, 3]
    assert list(again.names) == list(reference.names)


def test_cofw68_text(reference: Reference, tmp_path: Path) -> None:
    """Four lines a face, faces in any order, 1-based; with spaces at the ends, as files have."""
    path = tmp_path / "method.txt"
    lines = []
    for i in (3, 0, 4, 1, 2):
        x, y = (reference.truth[i] + 1).T
        lines += [f"{i + 1} ", *(" ".join(f"{v:.3f}" for v in axis) + " " for axis in (x, y))]
        lines.append("0 " * 68)
    path.write_text("\n".join(lines) + "\n")
    found = read_predictions(path).aligned(reference)
    assert np.abs(found - reference.truth).max() < 6e-4


@pytest.mark.parametrize("nested", [True, False])
def test_json(nested: bool, reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "method.json"
    faces = {
        name: face.tolist() for name, face in zip(reference.names, reference.truth, strict=True)
    }
    content: Any = dict(reversed(faces.items()))
    if nested:
        content = {"faces": [{"name": n, "landmarks": f} for n, f in content.items()]}
    path.write_text(json.dumps(content))
    assert np.array_equal(read_predictions(path).aligned(reference), reference.truth)


def test_faces_are_recognised_by_the_shape_of_their_annotation(
    reference: Reference, tmp_path: Path
) -> None:
    """Pictures that were cut and scaled: the file's pixels are others, its names too."""
    path = tmp_path / "method.npz"
    order = np.array([2, 0, 4, 1, 3])
    factor = np.linspace(0.5, 2, FACES)[:, None, None]
    shift = np.arange(FACES)[:, None, None] * 100.0
    truth = reference.truth[order] * factor + shift
    np.savez(path, pred=truth + 3 * factor, gt=truth, names=[f"other {i}" for i in range(FACES)])
    found = read_predictions(path).aligned(reference)
    assert np.abs(found - (reference.truth + 3)).max() < 1e-6
    np.savez(path, pred=truth[1:], gt=truth[1:])
    with pytest.raises(DataError, match=r"1 of the 5 faces are not among its 4.*'test/0003'"):
        read_predictions(path).aligned(reference)


def test_in_order_where_nothing_else_tells(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "method.npz"
    np.savez(path, pred=reference.truth)
    assert np.array_equal(read_predictions(path).aligned(reference), reference.truth)
    np.savez(path, pred=reference.truth[:3])
    with pytest.raises(DataError, match="found 3 faces, expected the 5 of the data"):
        read_predictions(path).aligned(reference)
    np.savez(path, pred=reference.truth[:, :29])
    with pytest.raises(DataError, match="found 29 points a face, expected 68"):
        read_predictions(path).aligned(reference)
    np.savez(path, pred=reference.truth, names=["a", "b", "c", "d", "e"])
    with pytest.raises(DataError, match=r"'test/0001' is not among them \(5 missing\)"):
        read_predictions(path).aligned(reference)
    with pytest.raises(DataError, match=r"without the truth; --data"):
        read_predictions(path).reference({})


ROW = "3 " * 68 + "\n"
ONES = np.ones((2, 5, 2))
MARKED = np.where(np.arange(20).reshape(2, 5, 2) // 2 == 8, -1.0, ONES)
BAD: dict[str, tuple[str, Any, str]] = {
    "no array": ("npz", {"wrong": np.zeros(2)}, "expected pred"),
    "flat": ("npz", {"pred": np.zeros((5, 68))}, r"expected \(faces, points, 2\)"),
    "nan": ("npz", {"pred": np.full((2, 5, 2), np.nan)}, "face 1 are not finite"),
    "gt": ("npz", {"pred": np.ones((2, 5, 2)), "gt": np.ones((3, 5, 2))}, "found a truth"),
    "bbox": ("npz", {"pred": np.ones((2, 5, 2)), "bbox": np.ones((3, 4))}, "found bbox"),
    "index": ("npz", {"pred": np.ones((2, 5, 2)), "subset_a": np.array([2])}, "from 0 to 1"),
    "names": ("npz", {"pred": np.ones((2, 5, 2)), "names": ["a", "a"]}, "'a' twice"),
    "text": ("json", "[1, 2", "not a readable JSON"),
    "empty": ("json", "{}", "with faces"),
    "ragged": ("json", '{"a": [[1, 2]], "b": [[1, 2], [3, 4]]}', "expected numbers, as many"),
    "half": ("json", '{"faces": [{"name": "a", "landmarks": [[1, 2]]}, {"name": "b"}]}', "1 of 2"),
    "lines": ("txt", "1\n2\n", "found 2 lines, expected four"),
    "number": ("txt", "face\n1\n1\n1\n", "line 1: expected the number"),
    "fields": ("txt", "1\n1 2\n1 2\n0 0\n", "line 2: found 2 values, expected 68"),
    "suffix": ("xml", "", "expected a file of predictions"),
    "zip": ("npz", "no archive", "not a readable .npz"),
    "cut short": ("npz", "PK\x03\x04", "not a readable .npz"),
    "code": ("npz", {"pred": np.array([print, None])}, "not a readable .npz.*pickle"),
    "complex": ("npz", {"pred": np.ones((2, 5, 2), complex)}, "expected numbers"),
    "letters": ("npz", {"pred": np.full((2, 5, 2), "a")}, "expected numbers"),
    "large": ("npz", {"pred": np.full((2, 5, 2), 1e300)}, "face 1 are not finite"),
    "no box": ("npz", {"pred": np.ones((2, 5, 2)), "bbox": np.full((2, 4), np.nan)}, "bbox of fac"),
    "one name": ("npz", {"pred": np.ones((2, 5, 2)), "names": "a"}, "found 1 names for 2"),
    "table": ("npz", {"pred": np.ones((2, 5, 2)), "subset_a": np.zeros((2, 2), int)}, "indices fr"),
    "nested": ("json", "[" * 99999, "not a readable JSON"),
    "texts": ("npz", {"pred": np.full((2, 5, 2), "1_0.5")}, "expected numbers"),
    "a text": ("json", '{"a": [["1_0.5", 2]]}', "expected numbers"),
    "truth values": ("npz", {"pred": np.ones((2, 5, 2), bool)}, "expected numbers"),
    "a name again": ("json", '{"a": [[1, 2]], "a": [[3, 4]]}', "found the key 'a' twice"),
    "a face again": (
        "json",
        '{"faces": [{"name": "a", "landmarks": [[1, 2]]}, {"name": "a", "landmarks": [[3, 4]]}]}',
        "found the face 'a' twice",
    ),
    "a number again": ("txt", f"1\n{ROW}{ROW}{ROW}" * 2, "found the face 'test/0001' twice"),
    "an odd number": ("txt", f"\u0661\n{ROW}{ROW}{ROW}", "line 1: expected the number of a face"),
    "odd digits": ("txt", f"1\n{ROW}{ROW.replace('3', '1_0', 1)}{ROW}", "line 3: found '1_0', exp"),
    "an index again": (
        "npz",
        {"pred": np.ones((3, 5, 2)), "subset_a": np.array([0, 2, 2])},
        "subset_a: found face 2 twice",
    ),
    "no point": ("npz", {"pred": ONES, "gt": MARKED}, "truth of face 2 has point 3 at -1 -1"),
    "boxes": (
        "json",
        '{"faces": [{"name": "a", "landmarks": [[1, 2]], "box": [1, 2, 3]}]}',
        r"found boxes \(1, 3\), expected \(1, 4\)",
    ),
    "a box": (
        "json",
        '{"faces": [{"name": "a", "landmarks": [[1, 2]], "box": 5}]}',
        r"found boxes \(1,\), expected",
    ),
    "digits": ("json", '{"a": [[1' + "0" * 400 + ", 2]]}", "expected numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_names_the_file(case: str, tmp_path: Path) -> None:
    suffix, content, message = BAD[case]
    path = tmp_path / f"bad.{suffix}"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        np.savez(path, **content)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert "bad." in str(caught.value)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    with (tmp_path / "bad.npz").open("wb") as file:
        np.save(file, np.ones((2, 5, 2)))
    with pytest.raises(DataError, match=r"bad.npz: .*found a single array"):
        read_predictions(tmp_path / "bad.npz")


def test_any_damage_is_a_clean_error(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    write_predictions(path, reference, {"a": reference.truth})
    whole, random = path.read_bytes(), np.random.default_rng(0)
    said = []
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 9)):
            content[place] = random.integers(0, 256)
        path.write_bytes(content[: random.integers(1, 2 * len(content))])
        try:
            read_predictions(path)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("bad.npz" in line and "\n" not in line for line in said)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"gone.npz: file not found"):
        read_predictions("gone.npz")
