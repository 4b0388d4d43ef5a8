"""Faces with landmarks: readers, boxes, crops, augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ccdn.data.augment import Augmentation, augmentation
from ccdn.data.benchmark import Benchmark, PaperTable
from ccdn.data.boxes import face_box, landmark_box, mean_shape, square_box
from ccdn.data.crop import (
    compose,
    crop_image,
    crop_matrix,
    from_unit,
    invert,
    to_unit,
    transform_points,
)
from ccdn.data.detection.haar import detect_faces
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
from ccdn.data.registry import BENCHMARKS, detect_kind, open_faces

if TYPE_CHECKING:
    from ccdn.data.dataset import CropDataset, collate

__all__ = [
    "BENCHMARKS",
    "Augmentation",
    "Benchmark",
    "CropDataset",
    "DataError",
    "Face",
    "FaceSet",
    "ImageFaces",
    "Layout",
    "PaperTable",
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


def __getattr__(name: str) -> Any:
    if name in ("CropDataset", "collate"):  # on demand: they bring torch
        from ccdn.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
