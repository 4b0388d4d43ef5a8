"""Landmarks as COCO's JSON holds keypoints, which mmpose's users have on disk.

`annotations` have `keypoints` [x, y, v] * n and `bbox` x, y, width, height, and may have
`center`, `scale` and `box_size`, which then are the box (see `ccdn.data.hrnet`); a warning names
the faces whose `bbox` would have been too small. v is 2 for a point that can be seen and 1 for one
that cannot; in a file without any 2 it says nothing. Pixels are 0-based. The images lie in
`images/` beside the file or its folder, or beside the file.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import square_box
from .faces import Face, ImageFaces, checked_box, checked_landmarks, gather
from .hrnet import PIXELS_OF_SCALE, centred_box
from .images import DataError, readable
from .split_files import find_image, find_split_file

log = logging.getLogger(__name__)

_MARGIN = 0.25  # of the crop that a rectangle is judged by: the default


def read_coco(root: str | Path, split: str = "train", skip_bad: bool = False) -> ImageFaces:
    """Open a JSON file, or that of a split in a folder or its `annotations/`.

    Raises DataError for a missing or broken file, and the first bad annotation unless `skip_bad`,
    which logs and counts them in `skipped`.
    """
    path = find_split_file(Path(root), split, ".json", "a COCO-style JSON file")
    with readable(path, "a JSON file in UTF-8", ValueError, RecursionError):
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    images = {}
    for number, image in enumerate(_items(path, content, "images")):
        name, key = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name or not isinstance(key, (int, str)):
            raise DataError(f"{path}, image {number}: expected an id and a file_name")
        images[key] = name
    annotations = _items(path, content, "annotations")
    says_visibility = any(
        isinstance(item.get("keypoints"), list) and 2 in item["keypoints"][2::3]
        for item in annotations
    )

    small: list[str] = []

    def read(row: tuple[int, dict[str, Any]]) -> Face:
        number, item = row
        face = _read_annotation(path, images, says_visibility, number, item)
        share = _beyond_rectangle(item, face.landmarks)
        if share > 0:
            small.append(f"{_where(number, item)} by {100 * share:.0f} %")
        return face

    faces, skipped = gather(list(enumerate(annotations)), read, skip_bad)
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
    return ImageFaces(path.stem, faces, skipped, orient=False)


def _beyond_rectangle(item: dict[str, Any], landmarks: np.ndarray) -> float:
    """How far landmarks (L, 2) lie outside the crop, a quarter larger, of a rectangle that is not
    used, as a share of the crop; 0 where they do not, and where there is no such rectangle.
    """
    if "bbox" not in item or not _has_centre(item):
        return 0.0
    try:
        x, y, width, height = _numbers("", item, "bbox", 4)
        square = square_box(np.array([x, y, x + width, y + height]), _MARGIN)
    except ValueError:  # as it is not used, nothing is wrong
        return 0.0
    beyond = np.maximum(square[:2] - landmarks, landmarks - square[2:]).max(initial=0.0)
    return float(beyond / (square[2] - square[0]))


def _items(path: Path, content: Any, name: str) -> list[dict[str, Any]]:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DataError(f"{path}: expected a list {name!r} of objects, as COCO's files have")
    return found


def _read_annotation(
    path: Path, images: dict[Any, str], says_visibility: bool, number: int, item: dict[str, Any]
) -> Face:
    where = f"{path}, {_where(number, item)}"
    key = item.get("image_id")
    if not isinstance(key, (int, str)) or key not in images:
        raise DataError(f"{where}: found image_id {key!r}, expected that of an image")
    keypoints = _numbers(where, item, "keypoints")
    if len(keypoints) == 0 or len(keypoints) % 3:
        raise DataError(f"{where}: found {len(keypoints)} keypoint values, expected 3 a point")
    table = np.array(keypoints).reshape(-1, 3)
    if (table[:, 2] == 0).any():
        missing = int(np.argmax(table[:, 2] == 0))
        raise DataError(f"{where}: point {missing} is not annotated (v = 0), expected 1 or 2")
    return Face(
        images[key],
        checked_landmarks(table[:, :2], where),
        _box(where, item),
        path.stem,
        find_image(path, images[key]),
        table[:, 2] == 2 if says_visibility else None,
        source=f"{path.name}, annotation {number}",
    )


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
    if "bbox" not in item:
        return None
    x, y, width, height = _numbers(where, item, "bbox", 4)
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
