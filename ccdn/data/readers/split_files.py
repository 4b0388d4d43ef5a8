"""The annotation file of a split, and the images next to it: both are known by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ccdn.data.images import DataError


def find_split_file(root: Path, split: str, suffix: str, what: str) -> Path:
    """The file `what` of a split: `root` itself if it is a file, else one found by its name.

    In the folder or its subfolder `annotations` the name of the split must be the stem, its end
    (`face_landmarks_wflw_train`) or, if no file is so called, its beginning (`test_wflw`) or a word
    of it (`coco_wholebody_val_v1.0`).
    Raises DataError unless there is exactly one.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder, expected {what}")
    folders = [folder for folder in (root, root / "annotations") if folder.is_dir()]
    files = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() == suffix and path.is_file() and not path.name.startswith(".")
    ]
    for fits in (
        lambda stem: stem == split or stem.endswith(f"_{split}"),
        lambda stem: stem.startswith(f"{split}_"),
        lambda stem: f"_{split}_" in stem,
    ):
        found = [path for path in files if fits(path.stem)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{root}: found {names} for the split {split!r}, expected one; name it")
    names = ", ".join(path.name for path in files) or f"no {suffix} file"
    raise DataError(
        f"{root}: found {names}, expected {what} of the split {split!r}: *_{split}{suffix}"
    )


def find_image(table: Path, name: str, more: Sequence[str] = ()) -> Path:
    """Where the image of an annotation lies: in `images`, `WFLW_images` or `more` next to the
    file or its folder, or next to them. If missing, the first of these, for an error to name.
    """
    folders = [
        folder / inside
        for folder in (table.parent, table.parent.parent)
        for inside in ("images", "WFLW_images", *more, "")
    ]
    return next((f / name for f in folders if os.path.isfile(f / name)), folders[0] / name)
