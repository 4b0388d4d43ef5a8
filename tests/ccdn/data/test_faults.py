"""Every possible fault of data in every format that allows it: three faces, the second is bad.

Each gives a DataError that names the file and the row; with skip_bad the other two are read, and
the fault is logged and counted. Files that are wrong as a whole:
test_bad_input.py, test_bad_mat_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ccdn.data import CropDataset, DataError, FaceSet, open_faces
from ccdn.data.images import cv2
from ccdn.data.readers.cofw import CofwFaces

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the official one")

HEIGHT, WIDTH = 48, 56
# 0-based. In a file that counts from 1 these are 1 1, 0 0 and -1 -1.
MARKS = {"zero": 0.0, "minus one": -1.0, "minus two": -2.0}


def good_points(count: int) -> np.ndarray:
    return np.random.default_rng(count).uniform(12, 38, (count, 2)).round(2)


# ---- the formats: three faces with a box each, given what is bad about the second ----------------


class Faces:
    """What a writer gets: points (3 lists of them), boxes, and where the images lie."""

    def __init__(self, count: int, fault: str) -> None:
        self.points = [good_points(count) for _ in range(3)]
        self.boxes = [[10.0, 11.0, 40.0, 41.0] for _ in range(3)]
        if fault == "count":
            self.points[1] = self.points[1][:-1]
        elif fault == "nan":
            self.points[1][3, 1] = np.nan
        elif fault == "outside":
            self.points[1][3] = 400.0, 20.0
        elif fault in MARKS:
            self.points[1][3] = MARKS[fault]
        elif fault == "box":
            self.boxes[1] = [10.0, 41.0, 40.0, 11.0]
        elif fault == "no width":
            self.boxes[1] = [10.0, 11.0, 10.0, 41.0]


def write_images(folder: Path, fault: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    content = cv2.imencode(".png", pixels)[1].tobytes()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(content)
    if fault == "missing":
        (folder / "b.png").unlink()
    elif fault == "truncated":
        (folder / "b.png").write_bytes(content[: len(content) // 2])
    elif fault == "unreadable":
        (folder / "b.png").write_bytes(b"this is no picture")


def write_pts_files(folder: Path, faces: Faces, fault: str) -> None:
    write_images(folder, fault)
    for name, points in zip("abc", faces.points, strict=True):
        rows = "\n".join(f"{x + 1} {y + 1}" for x, y in points)
        text = f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"
        (folder / f"{name}.pts").write_text(text)
    if fault == "no annotation":
        (folder / "b.pts").unlink()


def write_300w(root: Path, fault: str) -> None:
    faces = Faces(68, fault)
    write_pts_files(root / "ibug", faces, fault)
    if fault in ("box", "no width"):
        cells = np.empty((1, 3), object)
        for k, (name, box) in enumerate(zip("abc", faces.boxes, strict=True)):
            one_based = np.array([box]) + 1
            cells[0, k] = {
                "imgName": f"{name}.png",
                "bb_detector": one_based,
                "bb_ground_truth": one_based,
            }
        scipy.io.savemat(root / "bounding_boxes_ibug.mat", {"bounding_boxes": cells})


def write_folder(root: Path, fault: str) -> None:
    write_pts_files(root, Faces(5, fault), fault)


def write_wflw(root: Path, fault: str) -> None:
    faces = Faces(98, fault)
    write_images(root / "WFLW_images" / "0--Parade", fault)
    rows = []
    for name, points, box in zip("abc", faces.points, faces.boxes, strict=True):
        numbers = [*points.ravel(), *box]
        rows.append(" ".join([*map(str, numbers), *"000000", f"0--Parade/{name}.png"]))
    table = root / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    table.parent.mkdir()
    table.write_text("\n".join(rows) + "\n")


def write_hrnet(root: Path, fault: str) -> None:
    faces = Faces(5, fault)
    write_images(root / "images", fault)
    rows = [
        "image_name,scale,center_w,center_h,"
        + ",".join(f"original_{i}_{axis}" for i in range(5) for axis in "xy")
    ]
    for name, points in zip("abc", faces.points, strict=True):
        scale = {"box": -0.2, "no width": 0}.get(fault, 0.2) if name == "b" else 0.2
        rows.append(",".join([f"{name}.png", str(scale), "25", "25", *map(str, points.ravel())]))
    (root / "face_landmarks_own_test.csv").write_text("\n".join(rows) + "\n")


def write_csv(root: Path, fault: str) -> None:
    faces = Faces(5, fault)
    write_images(root, fault)
    rows = [
        "image," + ",".join(f"{axis}{i}" for i in range(5) for axis in "xy") + ","
        "box_left,box_top,box_right,box_bottom"
    ]
    for name, points, box in zip("abc", faces.points, faces.boxes, strict=True):
        rows.append(",".join([f"{name}.png", *map(str, [*points.ravel(), *box])]))
    (root / "faces.csv").write_text("\n".join(rows) + "\n")


def write_coco(root: Path, fault: str) -> None:
    faces = Faces(5, fault)
    write_images(root / "images", fault)
    annotations = []
    for key, (points, (x0, y0, x1, y1)) in enumerate(zip(faces.points, faces.boxes, strict=True)):
        keypoints = [value for x, y in points.tolist() for value in (x, y, 2)]
        item = {"id": key, "image_id": key, "keypoints": keypoints}
        annotations.append({**item, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    images = [{"id": key, "file_name": f"{name}.png"} for key, name in enumerate("abc")]
    content = {"images": images, "annotations": annotations}
    (root / "test.json").write_text(json.dumps(content))


def write_aflw(root: Path, fault: str) -> None:
    faces = Faces(19, fault)
    write_images(root / "flickr" / "0", fault)
    names = np.array([[f"0/{name}.png"] for name in "abc"], object)
    content = {
        "data": np.array([points.T.ravel() for points in faces.points]),
        "bbox": np.array(faces.boxes)[:, [0, 2, 1, 3]],
        "nameList": names,
        "mask_new": np.ones((3, 19)),
        "ra": np.array([[1, 2, 3]]),
        "train_faces": 0,
    }
    scipy.io.savemat(root / "AFLWinfo_release.mat", content)


def write_cofw(root: Path, fault: str) -> None:
    import h5py

    faces = Faces(29, fault)
    with h5py.File(root / "COFW_test_color.mat", "w", userblock_size=512) as file:
        cells = file.create_dataset("IsT", (1, 3), h5py.ref_dtype)
        pixels = np.zeros((3, WIDTH, HEIGHT), np.uint8)
        for k in range(3):
            bad = fault == "unreadable" and k == 1
            cells[0, k] = file.create_dataset(f"#refs#/{k}", data=pixels[:2] if bad else pixels).ref
        boxes = [(x0 + 1, y0 + 1, x1 - x0, y1 - y0) for x0, y0, x1, y1 in faces.boxes]
        file["bboxesT"] = np.array(boxes).T
        phis = [np.concatenate([*(points.T + 1), np.zeros(29)]) for points in faces.points]
        file["phisT"] = np.array(phis).T
    path = root / "COFW_test_color.mat"
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + (0x0200).to_bytes(2, "little") + b"IM")


def write_cofw68(root: Path, fault: str) -> None:
    faces = Faces(68, fault)
    write_cofw(root, "unreadable" if fault == "unreadable" else "")
    folder = root / "test_annotations"
    folder.mkdir()
    for k, points in enumerate(faces.points, start=1):
        about = {"Points": points + 1, "Occ": np.zeros((1, 68))}
        scipy.io.savemat(folder / f"{k}_points.mat", about)
    boxes = [(x0 + 1, y0 + 1, x1 - x0, y1 - y0) for x0, y0, x1, y1 in faces.boxes]
    scipy.io.savemat(root / "cofw68_test_bboxes.mat", {"bboxes": np.array(boxes)})


# Of each format: kind, split, writer, how a message names the image and the annotation of face two.
FORMATS: dict[str, tuple[str, str, Callable[[Path, str], None], str, str]] = {
    "300w": ("300w", "ibug", write_300w, r"b\.(png|pts)", r"b\.pts"),
    "pts": ("folder", "train", write_folder, r"b\.(png|pts)", r"b\.pts"),
    "wflw": ("wflw", "test", write_wflw, r"b\.png \(.*line 2\)", "attr_test.txt, line 2"),
    "hrnet": ("hrnet", "test", write_hrnet, r"b\.png \(.*line 3\)", "test.csv, line 3"),
    "csv": ("folder", "train", write_csv, r"b\.png", "faces.csv, line 3"),
    "coco": ("coco", "test", write_coco, r"b\.png \(.*annotation 1\)", "test.json, annotation 1"),
    "aflw": ("aflw", "test", write_aflw, r"b\.png \(.*face 2\)", "release.mat, face 2"),
    "cofw": ("cofw", "test", write_cofw, "(image|face) 2", "color.mat, face 2"),
    "cofw68": ("cofw68", "test", write_cofw68, r"image 2|2_points\.mat", "2_points.mat"),
}
# What the message says, and whether the image or the annotation is at fault.
FAULTS = {
    "missing": ("not found|no image|found none", "image"),
    "truncated": ("the image file is truncated", "image"),
    "unreadable": ("not an image|channels, expected 3", "image"),
    "no annotation": ("annotation not found", "annotation"),
    "count": ("expected", "annotation"),
    "nan": ("finite number|expected a|found 'nan", "annotation"),
    "box": ("an empty or inverted box", "annotation"),
    "no width": ("an empty or inverted box", "annotation"),
    "zero": ("found point 3 at (0 0|1 1), the mark of a point that is not there", "annotation"),
    "minus one": ("found point 3 at (-1 -1|0 0), the mark of a point that", "annotation"),
    "minus two": ("found point 3 at -1 -1, the mark of a point that is not there", "annotation"),
    "outside": (r"landmark 3 at \(400\.0, 20\.0\) is far outside", "image"),
}
IN_ALL = ("nan", "outside", "zero", "minus one")
FROM_ONE = ("300w", "pts", "cofw", "cofw68")  # formats that give the first pixel the number 1
HAVE = {
    "300w": ("missing", "truncated", "unreadable", "count", "no annotation", "box"),
    "pts": ("missing", "truncated", "unreadable", "count", "no annotation"),
    "wflw": ("missing", "truncated", "unreadable", "count", "box"),
    "hrnet": ("missing", "truncated", "unreadable", "count", "box"),
    "csv": ("missing", "truncated", "unreadable", "count", "box"),
    "coco": ("missing", "truncated", "unreadable", "count", "box"),
    "aflw": ("missing", "truncated", "unreadable", "box"),
    "cofw": ("unreadable", "box"),
    "cofw68": ("unreadable", "count", "box"),
}


def use(faces: FaceSet) -> None:
    """Make a crop of every face, as training does."""
    crops = CropDataset(faces, 16, "gt", cache=False)
    for index in range(len(faces)):
        crops[index]


@pytest.mark.parametrize(
    ("name", "fault"),
    [(name, fault) for name in FORMATS for fault in (*HAVE[name], *IN_ALL)]
    + [(name, "no width") for name in FORMATS if "box" in HAVE[name]]
    + [(name, "minus two") for name in FROM_ONE],
)
def test_faults(name: str, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind, split, write, image, annotation = FORMATS[name]
    write(tmp_path, fault)
    says, at = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        use(open_faces(kind, tmp_path, split))
    message = str(caught.value)
    wanted = image if at == "image" else annotation
    of_all_boxes = name == "300w" and fault in ("box", "no width")
    if of_all_boxes:
        wanted = "bounding_boxes_ibug.mat, entry 2"
    caught.match(wanted)
    caught.match(says)
    if of_all_boxes:
        return  # a file of boxes is right or wrong as a whole
    faces = open_faces(kind, tmp_path, split, skip_bad=True)
    use(faces)
    assert len(faces) == 2
    assert faces.skipped.count == 1
    assert f"skipped: {faces.skipped.reasons[0]}" in caplog.text
    assert faces.skipped.reasons[0].split(":")[0] == message.split(":")[0]


@pytest.mark.parametrize("name", list(FORMATS))
def test_without_a_fault_all_are_read(name: str, tmp_path: Path) -> None:
    kind, split, write, _, _ = FORMATS[name]
    write(tmp_path, "")
    faces = open_faces(kind, tmp_path, split, skip_bad=True)
    use(faces)
    assert len(faces) == 3
    assert faces.skipped.count == 0


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("mark", list(MARKS))
def test_marks_taken_for_places(name: str, mark: str, tmp_path: Path) -> None:
    """By missing_points=place; -2 -2 in formats that count from 0 is a place anyway."""
    kind, split, write, _, _ = FORMATS[name]
    write(tmp_path, mark)
    how = "error" if mark == "minus two" and name not in FROM_ONE else "place"
    faces = open_faces(kind, tmp_path, split, skip_bad=True, missing_points=how)
    use(faces)
    assert len(faces) == 3
    assert faces.face(1).landmarks[3].tolist() == [MARKS[mark]] * 2


@pytest.mark.parametrize("name", ["cofw", "cofw68"])
def test_a_face_that_is_left_out_moves_no_image(name: str, tmp_path: Path) -> None:
    kind, split, write, _, _ = FORMATS[name]
    write(tmp_path, "zero")
    faces = open_faces(kind, tmp_path, split, skip_bad=True)
    assert isinstance(faces, CofwFaces)
    assert [faces.face(i).name for i in range(2)] == ["test/0001", "test/0003"]
    import h5py

    with h5py.File(tmp_path / "COFW_test_color.mat", "r+") as file:
        file["#refs#/2"][...] = 77
    assert [int(faces.image(i).max()) for i in range(2)] == [0, 77]


def test_one_coordinate_of_a_mark_is_a_place(tmp_path: Path) -> None:
    """Faces that the border cuts have points on it and a little outside."""
    write_images(tmp_path, "")
    points = np.array([[0, 5], [5, 0], [-1, 4], [-1, 0], [-1.5, -1.5], [30, 30]])
    rows = "\n".join(f"{x + 1} {y + 1}" for x, y in points)
    for name in "abc":
        (tmp_path / f"{name}.pts").write_text(f"version: 1\nn_points: 6\n{{\n{rows}\n}}\n")
    assert open_faces("folder", tmp_path).face(2).landmarks.tolist() == points.tolist()


def test_wrong_ways_to_read(tmp_path: Path) -> None:
    write_csv(tmp_path, "")
    for wrong in ({"missing_points": "skip"}, {"orientation": "sideways"}):
        ((name, value),) = wrong.items()
        with pytest.raises(DataError, match=f"found {name} '{value}', expected one of"):
            open_faces("folder", tmp_path, **wrong)  # type: ignore[arg-type]
