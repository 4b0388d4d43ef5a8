"""Landmarks in COCO's JSON format for keypoints, which mmpose uses.

`annotations` have `keypoints` [x, y, v] * n and `bbox` x, y, width, height, and may have `center`,
`scale` and `box_size`, which then are the box (see `ccdn.data.readers.hrnet`); a warning names the
faces whose `bbox` would have been too small. v is 2 for a point that can be seen, 1 for one that
cannot and 0 for one that was not annotated, which is an error; in a file without any 2 it says
nothing. Pixels are 0-based. The images lie in `images/` next to the file or its folder, or next to
the file.

Labels may be of the picture as stored or as its EXIF orientation shows it, and `width` and `height`
of `images` say which; see `ccdn.data.orientation`.

COCO-WholeBody's files, whose `keypoints` are of the body, are read by their `face_kpts`, 68 points
as 300W's, and `face_box`; annotations with `face_valid` false are no faces. There any v above 0 is
an annotated point. The images may also lie in `train2017/` and `val2017/`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data.benchmark import Benchmark
from ccdn.data.boxes import square_box
from ccdn.data.faces import Face, ImageFaces, checked_box, checked_landmarks, naming_the_row
from ccdn.data.formats.json_files import parse_json
from ccdn.data.images import DataError, readable
from ccdn.data.orientation import Upright
from ccdn.data.readers.gather import gather, reading
from ccdn.data.readers.hrnet import PIXELS_OF_SCALE, centred_box
from ccdn.data.readers.split_files import find_image, find_split_file

log = logging.getLogger(__name__)

_MARGIN = 0.25  # of the crop that a rectangle is judged by: the default
_FACE = "face_kpts"
_FACE_POINTS = 68
_WHOLE_BODY_FOLDERS = ("train2017", "val2017")


def read_coco(
    root: str | Path,
    split: str = "train",
    skip_bad: bool = False,
    *,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a JSON file, or that of a split in a folder or its `annotations/`.

    Raises DataError for a missing or broken file, and the first bad annotation unless `skip_bad`,
    which logs and counts them in `skipped`. `missing_points` and `orientation` (auto: by the file's
    sizes, each picture by itself) are those of `ccdn.data.open_faces`. An id that two
    annotations have is an error, or with `skip_bad` the later one is left out; with an id that two
    images have, all its annotations.
    """
    how = reading(skip_bad, missing_points, orientation)
    path = find_split_file(Path(root), split, ".json", "a COCO-style JSON file")
    with readable(path, "a JSON file in UTF-8", ValueError, RecursionError):
        content = parse_json(path.read_bytes().decode("utf-8-sig"))
    images = _read_images(path, content, skip_bad)
    annotations = list(enumerate(_items(path, content, "annotations")))
    if any(_FACE in item for _, item in annotations):
        everyone = len(annotations)
        annotations = [row for row in annotations if row[1].get("face_valid") is not False]
        log.info("%s: %d of %d people have a face", path, len(annotations), everyone)
        read_points: Callable[[str, dict[str, Any]], _Points] = _whole_body_points
    else:
        says = any(
            isinstance(item.get("keypoints"), list) and 2 in item["keypoints"][2::3]
            for _, item in annotations
        )

        def read_points(where: str, item: dict[str, Any]) -> _Points:
            return _points(where, item, says)

    upright = Upright(path, orientation)
    known: dict[Any, int] = {}
    small: list[str] = []

    def read(row: tuple[int, dict[str, Any]]) -> Face:
        number, item = row
        where = f"{path}, {_where(number, item)}"
        key = _key(item.get("id"))
        if key is not None and known.setdefault(key, number) != number:
            raise DataError(
                f"{where}: found the id of annotation {known[key]} again, expected another"
            )
        image = _image_of(where, images, item)
        points = read_points(where, item)
        file = find_image(path, image.name, _WHOLE_BODY_FOLDERS)
        face = Face(
            image.name,
            points.landmarks,
            points.box,
            path.stem,
            file,
            points.visible,
            source=f"{path.name}, annotation {number}",
        )
        if os.path.isfile(file):  # Path.is_file raises for too long a name
            with naming_the_row(face):
                face = replace(face, upright=upright.of(file, image.size))
        share = _beyond_rectangle(item, face.landmarks)
        if share > 0:
            small.append(f"{_where(number, item)} by {100 * share:.0f} %")
        return face

    faces, skipped = gather(annotations, read, how)
    if small:
        log.warning(
            "%s: the rectangle (bbox) of %d of %d faces is too small, landmarks lie outside its "
            "crop: %s%s; center and scale are used",
            path,
            len(small),
            len(annotations),
            ", ".join(small[:3]),
            ", ..." if len(small) > 3 else "",
        )
    return ImageFaces(path.stem, faces, skipped, orient=how.orient)


# ---- images --------------------------------------------------------------------------------------


@dataclass
class _Image:
    """An entry of `images`; `size` is width and height, None where it does not say. `places` are
    all that have its id. `error` is what is wrong with it, where its annotations are left out.
    """

    name: str
    size: tuple[int, int] | None
    error: str | None = None
    places: list[int] = field(default_factory=list)


def _read_images(path: Path, content: Any, skip_bad: bool) -> dict[Any, _Image]:
    images: dict[Any, _Image] = {}
    for number, item in enumerate(_items(path, content, "images")):
        key = _key(item.get("id"))
        try:
            image = _image(path, number, item)
        except DataError as error:
            if not skip_bad:
                raise
            image = _Image("", None, str(error))
        if key is None:
            continue  # no annotation can be of it
        known = images.setdefault(key, image)
        known.places.append(number)
        if len(known.places) > 1 and not skip_bad:
            raise DataError(_same_id(path, key, known))
    return images


def _same_id(path: Path | str, key: Any, image: _Image) -> str:
    places = " and ".join(map(str, image.places))
    return f"{path}: found the id {key!r} of images {places}, expected an id for each"


def _image(path: Path, number: int, item: dict[str, Any]) -> _Image:
    name = item.get("file_name")
    if not isinstance(name, str) or not name or _key(item.get("id")) is None:
        raise DataError(f"{path}, image {number}: expected an id and a file_name")
    return _Image(name, _size(path, number, item))


def _size(path: Path, number: int, item: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of an image, None where one is not given. A converter that does not know
    them writes 0.
    """
    found = []
    for name in ("width", "height"):
        value = item.get(name)
        if value is None:
            return None
        if not _is_number(value) or value != int(value) or value < 0:
            raise DataError(
                f"{path}, image {number}: found {name} = {value!r}, expected a whole number"
            )
        found.append(int(value))
    return (found[0], found[1]) if all(found) else None


def _key(value: Any) -> int | str | None:
    """An id as a key; None if it is not valid. In Python 1, 1.0 and true would be the same key."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _image_of(where: str, images: dict[Any, _Image], item: dict[str, Any]) -> _Image:
    key = _key(item.get("image_id"))
    if key is None or key not in images:
        raise DataError(
            f"{where}: found image_id {item.get('image_id')!r}, expected that of an image"
        )
    if len(images[key].places) > 1:
        raise DataError(_same_id(where, key, images[key]))
    if images[key].error is not None:
        raise DataError(f"{where}: {images[key].error}")
    return images[key]


# ---- annotations ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    landmarks: np.ndarray
    visible: np.ndarray | None
    box: np.ndarray | None


def _points(where: str, item: dict[str, Any], says_visibility: bool) -> _Points:
    table = _table(where, item, "keypoints")
    visible = table[:, 2] == 2 if says_visibility else None
    return _Points(checked_landmarks(table[:, :2], where), visible, _box(where, item))


def _whole_body_points(where: str, item: dict[str, Any]) -> _Points:
    table = _table(where, item, _FACE)
    if len(table) != _FACE_POINTS:
        raise DataError(f"{where}: found {len(table)} points of {_FACE}, expected {_FACE_POINTS}")
    box = _rectangle(where, item, "face_box") if "face_box" in item else None
    return _Points(checked_landmarks(table[:, :2], where), None, box)


def _table(where: str, item: dict[str, Any], name: str) -> np.ndarray:
    """The rows x, y, v (n, 3) of a list, all of them annotated."""
    values = _numbers(where, item, name)
    if len(values) == 0 or len(values) % 3:
        raise DataError(f"{where}: found {len(values)} keypoint values, expected 3 a point")
    table = np.array(values).reshape(-1, 3)
    if (table[:, 2] <= 0).any():
        missing = int(np.argmax(table[:, 2] <= 0))
        raise DataError(
            f"{where}: point {missing} is not annotated (v = {table[missing, 2]:g}), expected 1 "
            "or 2"
        )
    return table


def _beyond_rectangle(item: dict[str, Any], landmarks: np.ndarray) -> float:
    """How far landmarks (L, 2) lie outside the crop, a quarter larger, of a rectangle that is not
    used, as a share of the crop; 0 where they do not, and where there is no such rectangle.
    """
    if "bbox" not in item or not _has_centre(item):
        return 0.0
    try:
        square = square_box(_rectangle("", item, "bbox"), _MARGIN)
    except ValueError:  # as it is not used, nothing is wrong
        return 0.0
    beyond = np.maximum(square[:2] - landmarks, landmarks - square[2:]).max(initial=0.0)
    return float(beyond / (square[2] - square[0]))


def _items(path: Path, content: Any, name: str) -> list[dict[str, Any]]:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"{path}: expected a list {name!r} of objects, as COCO's files have")
    return found


def _where(number: int, item: dict[str, Any]) -> str:
    return f"annotation {number} (id {item.get('id')!r})"


def _has_centre(item: dict[str, Any]) -> bool:
    return "center" in item and ("scale" in item or "box_size" in item)


def _box(where: str, item: dict[str, Any]) -> np.ndarray | None:
    if _has_centre(item):
        centre = _numbers(where, item, "center", 2)
        if "box_size" in item:
            side = _number(where, item, "box_size")
        else:
            side = PIXELS_OF_SCALE * _number(where, item, "scale")
        return checked_box(centred_box(centre[0], centre[1], side), where)
    return _rectangle(where, item, "bbox") if "bbox" in item else None


def _rectangle(where: str, item: dict[str, Any], name: str) -> np.ndarray:
    x, y, width, height = _numbers(where, item, name, 4)
    return checked_box(np.array([x, y, x + width, y + height]), where)


def _numbers(where: str, item: dict[str, Any], name: str, count: int | None = None) -> list[float]:
    found = item.get(name)
    if not isinstance(found, list) or not all(_is_number(value) for value in found):
        raise DataError(f"{where}: expected {name!r} to be a list of finite numbers")
    if count is not None and len(found) != count:
        raise DataError(f"{where}: found {len(found)} values of {name!r}, expected {count}")
    return [float(value) for value in found]


def _number(where: str, item: dict[str, Any], name: str) -> float:
    if not _is_number(item[name]):
        raise DataError(f"{where}: found {name} = {item[name]!r}, expected a finite number")
    return float(item[name])


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _recognises(root: Path) -> bool:
    if root.is_file():
        return root.suffix.lower() == ".json"
    folders = [folder for folder in (root, root / "annotations") if folder.is_dir()]
    return any(any(folder.glob("*.json")) for folder in folders)


BENCHMARK = Benchmark(name="coco", read=read_coco, recognises=_recognises, suffixes=(".json",))
