"""The folder reader: .pts files and CSV files of any number of points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ccdn.data import DataError, open_faces, read_folder

HEADER = "image,x0,y0,x1,y1"
BOXES = "box_left,box_top,box_right,box_bottom"


@pytest.fixture
def table(tmp_path: Path, write_face: Callable) -> Callable[[str], Path]:
    """table(text) writes a CSV next to two images, a.png and sub/b.jpg."""
    write_face(tmp_path / "csv" / "a.png")
    write_face(tmp_path / "csv" / "sub" / "b.jpg")
    for path in (tmp_path / "csv").rglob("*.pts"):
        path.unlink()

    def write(text: str) -> Path:
        (tmp_path / "csv" / "faces.csv").write_text(text)
        return tmp_path / "csv"

    return write


@pytest.mark.parametrize("points", [1, 5, 21, 68])
def test_pts_in_subfolders(tmp_path: Path, write_face: Callable, points: int) -> None:
    first = write_face(tmp_path / "a.png", 1, points)
    second = write_face(tmp_path / "deep" / "er" / "b c.jpeg", 2, points)
    write_face(tmp_path / ".hidden" / "c.png", 3, points)
    faces = read_folder(tmp_path)
    assert (len(faces), faces.points) == (2, points)
    assert [faces.face(i).name for i in range(2)] == ["a", "deep/er/b c"]
    assert [faces.face(i).group for i in range(2)] == ["", "deep/er"]
    np.testing.assert_allclose(faces.face(0).landmarks, first, atol=1e-5)
    np.testing.assert_allclose(faces.face(1).landmarks, second, atol=1e-5)
    assert faces.image(1).shape == (48, 56, 3)


def test_mixed_counts_name_the_file(tmp_path: Path, write_face: Callable) -> None:
    write_face(tmp_path / "a.png", 1, 5)
    write_face(tmp_path / "b.png", 2, 6)
    with pytest.raises(DataError, match=r"b\.pts, line 2: found n_points 6, expected 5"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match=r"a\.pts, line 2: found n_points 5, expected 6"):
        read_folder(tmp_path, points=6)
    faces = read_folder(tmp_path, points=6, skip_bad=True)
    assert (len(faces), faces.skipped.count) == (1, 1)


def test_csv_with_and_without_boxes(table: Callable[[str], Path]) -> None:
    faces = read_folder(table(f"{HEADER}\na.png,1,2,3.5,4\n\nsub/b.jpg, 5,6,7,8\na.png,0,1,9,9\n"))
    assert (len(faces), faces.points) == (3, 2)
    np.testing.assert_array_equal(faces.face(0).landmarks, [[1, 2], [3.5, 4]])
    np.testing.assert_array_equal(faces.face(1).landmarks, [[5, 6], [7, 8]])
    assert [faces.face(i).name for i in range(3)] == ["a.png", "sub/b.jpg", "a.png#2"]
    assert faces.face(0).box is None
    assert faces.image(1).shape == (48, 56, 3)

    root = table(f"{BOXES},{HEADER}\n0,1,20,30,a.png,1,2,3,4\n")
    np.testing.assert_array_equal(read_folder(root).face(0).box, [0, 1, 20, 30])
    assert len(read_folder(root / "faces.csv", points=2)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: found the columns none, expected image,x0"),
        ("file,x0,y0\na.png,1,2\n", "line 1: found the columns file, x0, y0"),
        ("image,x0,y0,x2,y2\n", "line 1: missing column x1"),
        ("image\na.png\n", "line 1: missing column x0"),
        ("image,x0,y0,x0\n", "line 1: found the column 'x0' twice"),
        ("image,x0,y0,z\n", "line 1: unknown column 'z'"),
        (f"image,x0,y0,x{'9' * 5000}\n", "line 1: missing column x1"),
        ("image,x0,y0,x4000000000,y4000000000\n", "line 1: missing column x1"),
        ("image,x0,y0,box_left\n", "line 1: expected all or none of box_left"),
        (f"{HEADER}\na.png,1,2,3\n", "line 2: found 4 fields, expected 5"),
        (f"{HEADER}\na.png,1,2,3,4\na.png,1,2,,4\n", "line 3: found x1 = '', expected a finite"),
        (f"{HEADER}\na.png,1,nan,3,4\n", "line 2: found y0 = 'nan', expected a finite number"),
        (f"{HEADER}\na.png,1,2,11e38,4\n", "line 2: found x1 = '11e38', expected a finite"),
        (f"{HEADER}\nc.png,1,2,3,4\n", r"c\.png \(.*line 2\): image not found"),
        (f"{HEADER}\n,1,2,3,4\n", "line 2: found no image name"),
        (f"{HEADER},{BOXES}\na.png,1,2,3,4,9,1,9,5\n", "line 2: found an empty or inverted box"),
        (f"{HEADER}\n", r"no usable face \(0 skipped\)"),
    ],
)
def test_faults_of_a_csv_name_the_row(
    table: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_folder(table(text))
    assert "faces.csv" in str(caught.value)


def test_bad_rows_are_counted(table: Callable[[str], Path]) -> None:
    root = table(f"{HEADER}\na.png,1,2,3,4\na.png,1,2,3\nc.png,1,2,3,4\na.png,1,2,3,x\n")
    faces = read_folder(root, skip_bad=True)
    assert (len(faces), faces.skipped.count) == (1, 3)


def test_an_error_shows_the_beginning_of_a_long_field(table: Callable[[str], Path]) -> None:
    columns = [f"column{i}" for i in range(8)]
    with pytest.raises(DataError, match=f"found the columns {', '.join(columns[:6])}, expected"):
        read_folder(table(f"{','.join(columns)}\n"))
    with pytest.raises(DataError, match=f"line 2: found y0 = '{'x' * 40}', expected"):
        read_folder(table(f"{HEADER}\na.png,1,{'x' * 60},3,4\n"))


def test_columns_in_any_order(table: Callable[[str], Path]) -> None:
    columns = "y1,box_bottom,x0,image,box_top,x1,box_right,y0,box_left"
    face = read_folder(table(f"{columns}\n4,40,1,a.png,20,3,30,2,10\n")).face(0)
    np.testing.assert_array_equal(face.landmarks, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(face.box, [10, 20, 30, 40])


@pytest.mark.parametrize("box", ["9,1,9,5", "9,1,8,5", "1,9,5,9", "1,9,5,8"])
def test_a_box_without_an_area(table: Callable[[str], Path], box: str) -> None:
    with pytest.raises(DataError, match=r"line 2: found an empty or inverted box \["):
        read_folder(table(f"{HEADER},{BOXES}\na.png,1,2,3,4,{box}\n"))


def test_several_faces_of_an_image_have_names_of_their_own(table: Callable[[str], Path]) -> None:
    faces = read_folder(table(HEADER + "".join(f"\na.png,1,2,3,{i}" for i in range(4))))
    names = [faces.face(i).name for i in range(4)]
    assert names == ["a.png", "a.png#2", "a.png#3", "a.png#4"]


def test_hidden_files_are_left_out(tmp_path: Path, write_face: Callable) -> None:
    write_face(tmp_path / "a.png")
    (tmp_path / ".faces.csv").write_text("not for us")
    (tmp_path / "._b.pts").write_text("nor this")
    assert len(read_folder(tmp_path)) == 1
    (tmp_path / "a.pts").unlink()
    with pytest.raises(DataError, match=r"found no \.pts file and no CSV file"):
        read_folder(tmp_path)
    (tmp_path / "faces.CSV").write_text(f"{HEADER}\na.png,1,2,3,4\n")
    assert len(read_folder(tmp_path)) == len(read_folder(tmp_path / "faces.CSV")) == 1


def test_csv_of_another_count_of_points(table: Callable[[str], Path]) -> None:
    root = table(f"{HEADER}\na.png,1,2,3,4\n")
    with pytest.raises(DataError, match="line 1: found columns of 2 points, expected 68"):
        read_folder(root, points=68)


def test_splits_are_subfolders(tmp_path: Path, write_face: Callable) -> None:
    write_face(tmp_path / "train" / "a.png")
    write_face(tmp_path / "test" / "b.png")
    write_face(tmp_path / "test" / "c.png")
    assert len(read_folder(tmp_path, split="train")) == 1
    assert len(open_faces("folder", tmp_path, "test")) == 2
    assert len(read_folder(tmp_path / "test", split="train")) == 2
    with pytest.raises(DataError, match="found train and test, expected a subfolder 'val'"):
        read_folder(tmp_path, split="val")
    (tmp_path / "train").rename(tmp_path / "other")
    with pytest.raises(DataError, match="found test, expected a subfolder 'train'"):
        read_folder(tmp_path, split="train")
    assert len(read_folder(tmp_path)) == len(read_folder(tmp_path, split="")) == 3


def test_what_cannot_be_read_is_said(tmp_path: Path, write_face: Callable) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"found no \.pts file and no CSV file"):
        read_folder(tmp_path)
    (tmp_path / "faces.txt").write_text(f"{HEADER}\n")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"faces\.txt: no such folder"):
        read_folder(tmp_path / "faces.txt")
    with pytest.raises(DataError, match=r"folder\.csv: found no \.pts file and no CSV file"):
        read_folder(tmp_path / "folder.csv")
    (tmp_path / "folder.csv").rmdir()
    (tmp_path / "one.csv").write_text(f"{HEADER}\n")
    (tmp_path / "two.csv").write_text(f"{HEADER}\n")
    with pytest.raises(DataError, match=r"found 2 CSV files \(one\.csv, two\.csv\)"):
        read_folder(tmp_path)
    (tmp_path / "two.csv").unlink()
    write_face(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"found one\.csv and \.pts files"):
        read_folder(tmp_path)
