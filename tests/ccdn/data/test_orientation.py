"""Pictures with an EXIF orientation in every format: which pixels the landmarks are on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ccdn.cli.data import main
from ccdn.data import (
    CropDataset,
    DataError,
    FaceSet,
    check_image,
    open_faces,
    read_image,
    write_pts,
)
from ccdn.data.headers import Header, exif_orientation, picture_header, turned
from ccdn.data.images import cv2

WIDTH, HEIGHT = 60, 80
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height
DOTS = [(10 + 8 * i, 14 + 12 * i) for i in range(5)]
# What turns an upright picture into its stored pixels: 6 and 8 undo each other.
_INVERSE = {6: 8, 8: 6}


def exif(orientation: int, order: str = "big") -> bytes:
    """A directory of one entry."""
    head = {"big": b"MM\0*\0\0\0\x08", "little": b"II*\0\x08\0\0\0"}[order]
    parts = [(1, 2), (0x0112, 2), (3, 2), (1, 4), (orientation, 2), (0, 2), (0, 4)]
    return head + b"".join(value.to_bytes(size, order) for value, size in parts)  # type: ignore[arg-type]


def with_exif(jpeg: bytes, tiff: bytes) -> bytes:
    content = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def upright_picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in DOTS:
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
    return image


def write_oriented(path: Path, orientation: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    """A JPEG that looks like `upright_picture` once its orientation is applied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = turned(upright_picture(width, height), _INVERSE.get(orientation, orientation))
    quality = [cv2.IMWRITE_JPEG_QUALITY, 98]
    content = cv2.imencode(".jpg", np.ascontiguousarray(pixels), quality)[1].tobytes()
    path.write_bytes(with_exif(content, exif(orientation)))


def dots_are_hit(faces: FaceSet, index: int = 0) -> bool:
    """Whether the pixels at a face's landmarks are white."""
    image = faces.image(index)
    x, y = np.rint(faces.face(index).landmarks).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    return bool(inside.all() and (image[y, x] > 200).all())


def write_coco(
    root: Path, orientation: int, size: tuple[Any, Any] | None, picture: tuple[int, int]
) -> Path:
    write_oriented(root / "images" / "phone.jpg", orientation, *picture)
    image: dict[str, Any] = {"id": 1, "file_name": "phone.jpg"}
    if size is not None:
        image |= {"width": size[0], "height": size[1]}
    keypoints = [value for x, y in DOTS for value in (x, y, 2)]
    annotations = [{"id": k, "image_id": 1, "keypoints": keypoints} for k in range(2)]
    annotations[1]["keypoints"] = keypoints[3:] + keypoints[:3]
    (root / "train.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    return root


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_of_coco_tell_which_picture(orientation: int, skip_bad: bool, tmp_path: Path) -> None:
    root = write_coco(tmp_path, orientation, (WIDTH, HEIGHT), (WIDTH, HEIGHT))
    if 1 < orientation < 5:  # both pictures have that size
        with pytest.raises(DataError, match=rf"orientation {orientation}.* 60 x 80 pixels|usable"):
            open_faces("coco", root, skip_bad=skip_bad)
        faces = open_faces("coco", root, skip_bad=skip_bad, orientation="upright")
    else:
        faces = open_faces("coco", root, skip_bad=skip_bad)
    assert len(faces) == 2
    assert dots_are_hit(faces, 0)
    assert dots_are_hit(faces, 1)
    assert faces.image(0).shape == (HEIGHT, WIDTH, 3)
    CropDataset(faces, 16, "gt")[1]


@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_sizes_of_the_stored_pixels(orientation: int, tmp_path: Path) -> None:
    faces = open_faces("coco", write_coco(tmp_path, orientation, (80, 60), (60, 80)))
    np.testing.assert_array_equal(
        faces.image(0), read_image(tmp_path / "images" / "phone.jpg", orient=False)
    )
    assert not dots_are_hit(faces)


@pytest.mark.parametrize(
    ("orientation", "size", "picture", "message"),
    [
        (
            6,
            (30, 40),
            (60, 80),
            "found a picture of 80 x 60, upright 60 x 80 pixels, expected 30 x",
        ),
        (1, (80, 60), (60, 80), "found a picture of 60 x 80 pixels, expected 80 x 60 as in train"),
        (6, (60, 81), (60, 80), "its labels are of another size"),
        (6, (80, 80), (80, 80), "found EXIF orientation 6, with which both the stored and the up"),
        (3, (60, 80), (60, 80), "found EXIF orientation 3, with which both"),
        (8, None, (60, 80), "found EXIF orientation 8, and no width and height in train.json"),
        (8, (0, 0), (60, 80), "found EXIF orientation 8, and no width and height in train.json"),
        (8, (60, None), (60, 80), "orientation 8, and no width and height in train.json"),
    ],
)
def test_what_sizes_do_not_settle(
    orientation: int,
    size: tuple[Any, Any] | None,
    picture: tuple[int, int],
    message: str,
    tmp_path: Path,
) -> None:
    root = write_coco(tmp_path, orientation, size, picture)
    with pytest.raises(DataError, match=rf"phone.jpg \(train.json, annotation 0\): .*{message}"):
        open_faces("coco", root)
    with pytest.raises(DataError, match=r"no usable face \(2 skipped\)"):
        open_faces("coco", root, skip_bad=True)
    for choice, right in (("upright", True), ("stored", False)):
        if "of another size" in message or "found a picture" in message:
            with pytest.raises(DataError, match=message):
                open_faces("coco", root, orientation=choice)
        else:
            assert dots_are_hit(open_faces("coco", root, orientation=choice)) is right


@pytest.mark.parametrize("value", ["60", 60.5, -60, True, [60]])
def test_invalid_sizes(value: Any, tmp_path: Path) -> None:
    root = write_coco(tmp_path, 1, (WIDTH, value), (WIDTH, HEIGHT))
    with pytest.raises(DataError, match=r"train.json, image 0: found height = .*a whole number"):
        open_faces("coco", root)


def write_table(root: Path, kind: str) -> Path:
    write_oriented(root / "images" / "phone.jpg", 6)
    numbers = ",".join(f"{x},{y}" for x, y in DOTS)
    if kind == "pts":
        write_pts(root / "images" / "phone.pts", np.array(DOTS))
        return root / "images"
    if kind == "csv":
        names = ",".join(f"x{i},y{i}" for i in range(5))
        path = root / "t.csv"
        path.write_text(f"image,{names}\nimages/phone.jpg,{numbers}\n")
        return path
    names = ",".join(f"original_{i}_x,original_{i}_y" for i in range(5))
    path = root / "own_train.csv"
    path.write_text(f"image_name,scale,center_w,center_h,{names}\nphone.jpg,1,30,40,{numbers}\n")
    return path


@pytest.mark.parametrize("kind", ["pts", "csv", "hrnet"])
def test_formats_without_sizes(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's pictures are upright, HRNet's as stored: and said; the option is the other way."""
    root = write_table(tmp_path, kind)
    name = "hrnet" if kind == "hrnet" else "folder"
    faces = open_faces(name, root)
    assert dots_are_hit(faces) is (kind != "hrnet")
    faces.image(0)
    assert caplog.text.count("has EXIF orientation 6 and is read as stored") == (kind == "hrnet")
    caplog.clear()
    for orientation in ("stored", "upright"):
        for skip_bad in (False, True):
            # Read as stored the last dot is outside the picture, but not far.
            faces = open_faces(name, root, orientation=orientation, skip_bad=skip_bad)
            assert dots_are_hit(faces) is (orientation == "upright")
    assert "EXIF" not in caplog.text
    assert main(["inspect", name, str(root), "--box", "gt", "--orientation", "stored"]) == 0
    printed = capsys.readouterr().out
    assert "1 pictures with an EXIF orientation: 0 turned upright, 1 as stored" in printed


def test_inspect_says_what_becomes_of_orientations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_coco(tmp_path, 6, (WIDTH, HEIGHT), (WIDTH, HEIGHT))
    assert main(["inspect", "coco", str(root), "--box", "gt"]) == 0
    assert "orientation: 1 turned upright, 0 as stored" in capsys.readouterr().out
    root = write_coco(tmp_path, 1, (WIDTH, HEIGHT), (WIDTH, HEIGHT))
    assert main(["inspect", "coco", str(root), "--box", "gt"]) == 0
    assert "EXIF" not in capsys.readouterr().out


def test_a_check_looks_at_the_same_picture_as_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    write_oriented(path, 6, 64, 80)
    assert check_image(path) == (64, 80)
    assert check_image(path, orient=False) == (80, 64)


def test_kept_crops_are_of_the_picture_that_is_read_now(tmp_path: Path) -> None:
    """The JSON's sizes are corrected; the crops on disk were of the other picture."""
    crops = []
    for size in ((HEIGHT, WIDTH), (WIDTH, HEIGHT)):
        root = write_coco(tmp_path, 6, size, (WIDTH, HEIGHT))
        faces = open_faces("coco", root)
        kept = CropDataset(faces, 16, "gt", train=False, cache_dir=tmp_path / "kept")
        fresh = CropDataset(faces, 16, "gt", train=False)
        np.testing.assert_array_equal(kept.arrays(0)[0], fresh.arrays(0)[0])
        crops.append(fresh.arrays(0)[0])
    assert not np.array_equal(*crops)


# ---- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_as_opencv_has_them(orientation: int, order: str, tmp_path: Path) -> None:
    content = cv2.imencode(".jpg", upright_picture())[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif(content, exif(orientation, order)))
    header = picture_header(path)
    assert header == Header(WIDTH, HEIGHT, orientation)
    stored, upright = (read_image(path, orient) for orient in (False, True))
    np.testing.assert_array_equal(turned(stored, orientation), upright)
    assert header.stored == stored.shape[1::-1]
    assert header.upright == upright.shape[1::-1]


@pytest.mark.parametrize(
    "tiff", [b"", b"XX*\0", exif(9), exif(0), exif(6)[:9], exif(6)[:19], exif(6)[:10] + b"\1"]
)
def test_odd_exif(tiff: bytes) -> None:
    assert exif_orientation(tiff) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("size", [(1, 1), (57, 40), (300, 7)])
def test_sizes_of_every_kind_of_picture(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), np.zeros((size[1], size[0], 3), np.uint8))
    assert picture_header(path) == Header(*size)


@pytest.mark.parametrize("form", ["png", "webp", "webp lossless", "webp plain", "tiff"])
def test_exif_in_other_kinds_is_that_of_the_decoder(form: str, tmp_path: Path) -> None:
    """Whether OpenCV heeds it depends on its version: the header says what it does."""
    from PIL import Image

    kind, _, how = form.partition(" ")
    path, file = tmp_path / f"a.{kind}", io.BytesIO()
    more: dict[str, Any] = {"lossless": how == "lossless"} if kind == "webp" else {}
    if how != "plain":
        more["exif"] = exif(6) if kind == "tiff" else b"Exif\0\0" + exif(6)
    Image.fromarray(upright_picture()).save(file, kind, **more)
    path.write_bytes(file.getvalue())
    stored, upright = (read_image(path, orient) for orient in (False, True))
    header = picture_header(path)
    assert header.stored == stored.shape[1::-1]
    assert header.upright == upright.shape[1::-1]
    np.testing.assert_array_equal(turned(stored, header.orientation), upright)


def test_headers_of_no_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(DataError, match=r"a.jpg: image not found"):
        picture_header(path)
    whole = cv2.imencode(".jpg", upright_picture())[1].tobytes()
    for content in (b"none", whole[:2], whole[:30], b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.jpg: (not an image|the image file is truncated)"):
            picture_header(path)
    with pytest.raises(DataError, match="cannot read the image"):
        picture_header(tmp_path)
