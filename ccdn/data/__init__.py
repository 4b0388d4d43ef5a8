"""Faces with landmarks: readers, boxes, crops, augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ccdn.data.augment import Augmentation, augmentation
from ccdn.data.boxes import detect_faces, face_box, landmark_box, mean_shape, square_box
from ccdn.data.crop import (
    compose,
    crop_image,
    crop_matrix,
    from_unit,
    invert,
    to_unit,
    transform_points,
)
from ccdn.data.dataset import CropDataset, collate
from ccdn.data.faces import Face, FaceSet, ImageFaces, Skipped, subset_masks
from ccdn.data.formats.pts import read_pts, write_pts
from ccdn.data.images import DataError, check_image, read_image
from ccdn.data.layouts import Layout, generic_layout, layout, layout_or_none
from ccdn.data.readers.aflw import read_aflw
from ccdn.data.readers.coco import read_coco
from ccdn.data.readers.cofw import read_cofw, read_cofw68
from ccdn.data.readers.folder import read_folder
from ccdn.data.readers.hrnet import read_hrnet
from ccdn.data.readers.w300 import read_300w
from ccdn.data.readers.wflw import read_wflw

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
    "detect_kind",
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
    "read_aflw",
    "read_coco",
    "read_cofw",
    "read_cofw68",
    "read_folder",
    "read_hrnet",
    "read_image",
    "read_pts",
    "read_wflw",
    "square_box",
    "subset_masks",
    "to_unit",
    "transform_points",
    "write_pts",
]

# Each opens (root, split, skip_bad, *, missing_points, orientation); the others, folder and
# synthetic, have arguments of their own.
BENCHMARKS: dict[str, Callable[..., ImageFaces]] = {
    "300w": read_300w,
    "wflw": read_wflw,
    "cofw": read_cofw,
    "cofw68": read_cofw68,
    "aflw": read_aflw,
    "hrnet": read_hrnet,
    "coco": read_coco,
}
KINDS = (*BENCHMARKS, "folder", "synthetic")


def open_faces(
    kind: str,
    root: str | Path | None = None,
    split: str = "train",
    *,
    points: int | None = None,
    skip_bad: bool = False,
    missing_points: str = "error",
    orientation: str = "auto",
    synthetic: dict[str, Any] | None = None,
) -> FaceSet:
    """Open a set of faces by kind: one of KINDS.

    Points at 0 0 and -1 -1 are marks of points that are not there, and an error; `missing_points`
    place takes them for places. `orientation` says on which picture the labels of files with an
    EXIF orientation were drawn: stored, upright, or auto, as the format has it (the reader's page
    says how).

    `points` is the number of landmarks expected (for synthetic: made). `synthetic` holds the
    other arguments of `SyntheticFaces` (count, seed, size, pose), which has no root and no
    splits: a split is a seed. Raises DataError naming what was found and what was expected.
    """
    if kind not in KINDS:
        raise DataError(f"found data kind {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "synthetic":
        from ccdn.synthetic_faces import SyntheticFaces

        options = dict(synthetic or {})
        if points is not None:
            options["points"] = points
        return SyntheticFaces(**options)
    if root is None:
        raise DataError(f"data kind {kind!r} needs a root: the folder that holds the data")
    if kind == "folder":
        return read_folder(
            root,
            points=points,
            split=split,
            skip_bad=skip_bad,
            missing_points=missing_points,
            orientation=orientation,
        )
    faces = BENCHMARKS[kind](
        root, split, skip_bad, missing_points=missing_points, orientation=orientation
    )
    if points not in (None, faces.points):
        raise DataError(
            f"{faces.name} has {faces.points} points, the configuration asks for {points}"
        )
    return faces


def detect_kind(root: str | Path) -> str:
    """The kind of the data in a folder or file, by what lies there; folder where nothing tells."""
    root = Path(root)
    if root.is_file():
        if root.suffix.lower() == ".json":
            return "coco"
        return "hrnet" if _is_hrnet(root) else "folder"
    markers = {
        "300w": ("afw", "helen", "lfpw", "ibug", "ibug_300W_large_face_landmark_dataset"),
        "wflw": (
            "list_98pt_rect_attr_train_test",
            "WFLW_annotations/list_98pt_rect_attr_train_test",
        ),
        "cofw": ("COFW_train_color.mat", "COFW_test_color.mat"),
        "cofw68": ("cofw68_test_bboxes.mat", "test_annotations/1_points.mat", "1_points.mat"),
        "aflw": ("AFLWinfo_release.mat",),
    }
    for kind, names in markers.items():
        if any((root / name).exists() for name in names):
            return kind
    folders = [folder for folder in (root, root / "annotations") if folder.is_dir()]
    if any(_is_hrnet(path) for path in sorted(root.glob("*.csv"))):
        return "hrnet"
    return "coco" if any(any(folder.glob("*.json")) for folder in folders) else "folder"


def _is_hrnet(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.readline(200).lstrip().startswith("image_name,scale,")
    except (OSError, UnicodeDecodeError):
        return False
