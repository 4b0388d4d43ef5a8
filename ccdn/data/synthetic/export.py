"""Writing synthetic faces to disk in the official layout of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ccdn.data.pts import write_pts
from ccdn.data.synthetic.generator import SyntheticFaces

# Parts of 300W, how many of a hundred faces go there, and the format that its pictures have.
_TRAIN_PARTS = (("afw", 11, ".jpg"), ("helen/trainset", 63, ".jpg"), ("lfpw/trainset", 26, ".png"))
_TEST_PARTS = (("helen/testset", 48, ".jpg"), ("lfpw/testset", 33, ".png"), ("ibug", 19, ".jpg"))
_JPEG_QUALITY = 95


def write_300w(root: str | Path, train: SyntheticFaces, test: SyntheticFaces | None = None) -> int:
    """Write faces of 68 points as 300W lies on disk, and return how many were written.

    The faces of `train` are spread over afw, helen/trainset and lfpw/trainset, those of `test`
    over helen/testset, lfpw/testset and ibug, about as 300W is; each picture lies beside its .pts
    (1-based). `synthetic.json` in the root says how to make the same faces again. Raises
    ValueError for another number of points, for two sets with the same seed, and where the root
    holds pictures already.
    """
    root = Path(root)
    sets = [(train, _TRAIN_PARTS)] + ([(test, _TEST_PARTS)] if test is not None else [])
    for faces, _ in sets:
        if faces.points != 68:
            raise ValueError(f"300W has 68 points, found synthetic faces with {faces.points}")
    if test is not None and test.seed == train.seed:
        raise ValueError(f"train and test faces need different seeds, found {train.seed} for both")
    for _, parts in sets:
        for part, _, _ in parts:
            if (root / part).is_dir() and any((root / part).iterdir()):
                raise ValueError(f"{root / part} is not empty, expected a new folder")
    for faces, parts in sets:
        ends = np.rint(np.cumsum([share for _, share, _ in parts]) * len(faces) / 100).astype(int)
        start = 0
        for (part, _, suffix), end in zip(parts, ends.tolist(), strict=True):
            (root / part).mkdir(parents=True, exist_ok=True)
            for index in range(start, end):
                # Some names of ibug contain a space.
                gap = " " if part == "ibug" and index % 4 == 0 else "_"
                stem = root / part / f"synthetic{gap}{index:05d}"
                _write_image(stem.with_suffix(suffix), faces.image(index))
                write_pts(stem.with_suffix(".pts"), faces.face(index).landmarks)
            start = end
    names = ("train", "test")
    about = {name: faces.describe() for name, (faces, _) in zip(names, sets, strict=False)}
    (root / "synthetic.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return sum(len(faces) for faces, _ in sets)


def _write_image(path: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else []
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options):
        raise OSError(f"{path}: the picture could not be written")
