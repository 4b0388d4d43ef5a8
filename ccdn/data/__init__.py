"""Faces with landmarks: readers, boxes, crops, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .augment import Augmentation, augmentation
from .boxes import detect_faces, face_box, landmark_box, mean_shape, square_box
from .crop import (
    compose,
    crop_image,
    crop_matrix,
    from_unit,
    invert,
    to_unit,
    transform_points,
)
from .dataset import CropDataset, collate
from .faces import Face, FaceSet, ImageFaces, Skipped
from .folder import read_folder
from .images import DataError, check_image, read_image
from .layouts import Layout, generic_layout, layout, layout_or_none
from .pts import read_pts, write_pts
from .w300 import read_300w

__all__ = [
    "Augmentation",
    "CropDataset",
    "DataError",
    "Face",
    "FaceSet",
    "ImageFaces",
    "Layout",
    "Skipped",
    "augmentation",
    "check_image",
    "collate",
    "compose",
    "crop_image",
    "crop_matrix",
    "detect_faces",
    "face_box",
    "from_unit",
    "generic_layout",
    "invert",
    "landmark_box",
    "layout",
    "layout_or_none",
    "mean_shape",
    "open_faces",
    "read_300w",
    "read_folder",
    "read_image",
    "read_pts",
    "square_box",
    "to_unit",
    "transform_points",
    "write_pts",
]

KINDS = ("300w", "folder", "synthetic")


def open_faces(
    kind: str,
    root: str | Path | None = None,
    split: str = "train",
    *,
    points: int | None = None,
    skip_bad: bool = False,
    synthetic: dict[str, Any] | None = None,
) -> FaceSet:
    """Open a set of faces by kind: 300w, folder or synthetic.

    ``points`` is the number of landmarks expected (for synthetic: made). ``synthetic`` holds the
    other arguments of ``SyntheticFaces`` (count, seed, size, pose), which has no root and no
    splits: a split is a seed. Raises DataError naming what was found and what was expected.
    """
    if kind not in KINDS:
        raise DataError(f"found data kind {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "synthetic":
        from .synthetic import SyntheticFaces

        options = dict(synthetic or {})
        if points is not None:
            options["points"] = points
        return SyntheticFaces(**options)
    if root is None:
        raise DataError(f"data kind {kind!r} needs a root: the folder that holds the data")
    if kind == "folder":
        return read_folder(root, points=points, split=split, skip_bad=skip_bad)
    if points not in (None, 68):
        raise DataError(f"300W has 68 points, the configuration asks for {points}")
    return read_300w(root, split, skip_bad=skip_bad)
