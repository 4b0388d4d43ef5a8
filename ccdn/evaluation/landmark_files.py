"""Files of landmarks that any method predicted: .npz, .json, and COFW-68's text format.

npz: `pred` (N, L, 2) pixels, 0-based; optional: `names` (N,), `gt` (N, L, 2), `bbox` (N, 4)
x y width height, `subset_NAME` indices (n,). `ccdn evaluate` writes such a file too.

JSON: `{"faces": [{"name": ..., "landmarks": [[x, y], ...], "truth": ..., "box": [x0, y0, x1, y1]},
...]}`, truth and box optional, or `{name: [[x, y], ...], ...}`; 0-based.

COFW-68 text: four lines a face: its number (from 1), 68 x's, 68 y's (both 1-based), 68 flags of
occlusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.data import DataError, landmark_box
from ccdn.data.readers.gather import missing_point
from ccdn.evaluation.metrics import Array
from ccdn.evaluation.result_files import read_arrays, read_json
from ccdn.evaluation.scoring import Reference
from ccdn.runtime.files import atomic_write
from ccdn.runtime.numbers import is_whole, parse_number

# Two annotations show the same face when, moved and scaled onto each other, they differ by less
# than this share of the face's size (root mean square over points).
SAME_SHAPE = 0.01
_SUBSET_NAMES = {"ibug": "challenging"}


@dataclass(frozen=True)
class PredictionFile:
    """What a file holds. predicted: (N, L, 2) float64 pixels, 0-based; truth: the same, or None;
    boxes: (N, 4) x0 y0 x1 y1, or None; subsets: name -> indices.
    """

    path: Path
    predicted: Array
    names: Sequence[str] | None = None
    truth: Array | None = None
    boxes: Array | None = None
    subsets: Mapping[str, Array] = field(default_factory=dict)

    def reference(self, official: Mapping[str, int]) -> Reference:
        """The file's own annotation as faces to score on. Raises DataError without one."""
        if self.truth is None:
            raise DataError(
                f"{self.path}: it holds predictions without the truth; --data DIR gives the"
                " annotated faces"
            )
        everything = "full" if "full" in official else "test"
        boxes = self.boxes
        if boxes is None:
            boxes = np.stack([landmark_box(face) for face in self.truth])
        names = self.names or [f"face {i + 1}" for i in range(len(self.truth))]
        whole = {everything: np.arange(len(self.truth))}
        return Reference(names, self.truth, boxes, whole | dict(self.subsets), official)

    def aligned(self, reference: Reference) -> Array:
        """Predictions in the order and the pixels of the reference's faces, (N, L, 2).

        Faces are found by their names; else, where the file holds the truth, by the shape of it
        (then also pictures that were cut or scaled are recognised, and predictions are moved
        along); else by their order, where there are as many. Raises DataError for faces that are
        not in the file.
        """
        if self.predicted.shape[1] != reference.truth.shape[1]:
            raise DataError(
                f"{self.path}: found {self.predicted.shape[1]} points a face, expected"
                f" {reference.truth.shape[1]}"
            )
        if self.names is not None:
            places = _by_name(self.names, reference.names)
            if places is not None:
                return self.predicted[places]
        if self.truth is not None:
            return self._by_shape(reference)
        if self.names is None and len(self.predicted) == len(reference.truth):
            return self.predicted
        raise DataError(
            f"{self.path}: found {len(self.predicted)} faces, expected the"
            f" {len(reference.truth)} of the data{self._first_missing(reference)}"
        )

    def _first_missing(self, reference: Reference) -> str:
        if self.names is None:
            return " in their order, or with their names"
        known = set(self.names)
        missing = [name for name in reference.names if name not in known]
        return f"; {missing[0]!r} is not among them ({len(missing)} missing)" if missing else ""

    def _by_shape(self, reference: Reference) -> Array:
        from scipy.spatial import cKDTree

        assert self.truth is not None
        own, scale, centre = _normalised(self.truth)
        wanted, wanted_scale, wanted_centre = _normalised(reference.truth)
        count = len(own)
        distance, place = cKDTree(own.reshape(count, -1)).query(wanted.reshape(len(wanted), -1))
        apart = distance / np.sqrt(own.shape[1])
        if (apart > SAME_SHAPE).any():
            worst = int(apart.argmax())
            raise DataError(
                f"{self.path}: {int((apart > SAME_SHAPE).sum())} of the {len(wanted)} faces are not"
                f" among its {count}, compared by their annotation: {reference.names[worst]!r} for"
                " one"
            )
        moved = (self.predicted[place] - centre[place]) / scale[place]
        return np.asarray(moved * wanted_scale + wanted_centre)


def read_predictions(path: str | Path) -> PredictionFile:
    """Read a file of predictions by its suffix. Raises DataError, naming file, found, expected."""
    path = Path(path)
    readers = {".npz": _read_npz, ".json": _read_json, ".txt": _read_cofw68}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: expected a file of predictions ({', '.join(readers)})")
    if not path.is_file():
        raise DataError(f"{path}: file not found")
    return readers[path.suffix.lower()](path)


def write_predictions(
    path: Path, reference: Reference, predicted: Mapping[str, Array], **more: Array
) -> None:
    """Write the first method's predictions with their reference as an .npz that reads back.

    The methods' names go into `methods`, the others' landmarks into `pred_1`, `pred_2`, ...
    """
    landmarks = list(predicted.values())
    boxes = np.asarray(reference.boxes, np.float64)
    arrays: dict[str, Any] = {
        "names": np.array(list(reference.names)),
        "pred": landmarks[0],
        "gt": reference.truth,
        "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1),
        "methods": np.array(list(predicted)),
        **{f"pred_{i}": one for i, one in enumerate(landmarks[1:], 1)},
        **{f"subset_{name}": np.asarray(found) for name, found in reference.subsets.items()},
        **more,
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def _read_npz(path: Path) -> PredictionFile:
    content = read_arrays(path)
    if "pred" not in content:
        raise DataError(f"{path}: found the arrays {', '.join(content)}, expected pred (N, L, 2)")
    predicted = _landmarks(content["pred"], path, "pred")
    count = len(predicted)
    truth = _landmarks(content["gt"], path, "gt") if "gt" in content else None
    boxes = None
    if "bbox" in content:
        boxes = _numbers(content["bbox"], path, "bbox")
        if boxes.shape != (count, 4):
            raise DataError(f"{path}: found bbox {boxes.shape}, expected ({count}, 4)")
        _check_finite(boxes, path, "bbox")
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    names = [str(name) for name in content["names"].ravel()] if "names" in content else None
    subsets = {}
    for key, indices in content.items():
        if key.startswith("subset_"):
            if indices.ndim != 1 or (
                indices.size
                and not (indices.dtype.kind in "iu" and 0 <= indices.min() <= indices.max() < count)
            ):
                raise DataError(f"{path}: {key}: expected indices from 0 to {count - 1}")
            if len(np.unique(indices)) != len(indices):
                values, counts = np.unique(indices, return_counts=True)
                raise DataError(f"{path}: {key}: found face {values[counts > 1][0]} twice")
            name = key.removeprefix("subset_")
            subsets[_SUBSET_NAMES.get(name, name)] = indices.astype(np.int64)
    return _checked(PredictionFile(path, predicted, names, truth, boxes, subsets))


def _read_json(path: Path) -> PredictionFile:
    content = read_json(path, object)
    if isinstance(content, dict) and isinstance(content.get("faces"), list):
        faces = content["faces"]
    elif isinstance(content, dict):
        faces = [{"name": name, "landmarks": found} for name, found in content.items()]
    else:
        faces = []
    if not faces:
        raise DataError(f'{path}: expected {{"faces": [...]}} or {{name: landmarks}}, with faces')
    found: dict[str, list[Any]] = {}
    for key in ("name", "landmarks", "truth", "box"):
        values = [face[key] for face in faces if isinstance(face, dict) and key in face]
        if values and len(values) != len(faces):
            raise DataError(f"{path}: {key}: given for {len(values)} of {len(faces)} faces")
        found[key] = values
    if not found["landmarks"]:
        raise DataError(f"{path}: its faces have no landmarks")
    return _checked(
        PredictionFile(
            path,
            _landmarks(found["landmarks"], path, "landmarks"),
            [str(name) for name in found["name"]] or None,
            _landmarks(found["truth"], path, "truth") if found["truth"] else None,
            _boxes(found["box"], path) if found["box"] else None,
        )
    )


def _read_cofw68(path: Path) -> PredictionFile:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from None
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows or len(rows) % 4:
        raise DataError(f"{path}: found {len(rows)} lines, expected four for each face")
    names, landmarks = [], []
    for start in range(0, len(rows), 4):
        number, fields = rows[start]
        if len(fields) != 1 or not is_whole(fields[0]):
            raise DataError(f"{path}, line {number}: expected the number of a face")
        names.append(f"test/{int(fields[0]):04d}")
        axes = []
        for number, fields in rows[start + 1 : start + 4]:
            if len(fields) != 68:
                raise DataError(f"{path}, line {number}: found {len(fields)} values, expected 68")
            try:
                axes.append(np.array([parse_number(field) for field in fields]))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
        landmarks.append(np.stack(axes[:2], 1) - 1.0)
    return _checked(PredictionFile(path, _landmarks(landmarks, path, "landmarks"), names))


def _checked(file: PredictionFile) -> PredictionFile:
    if file.truth is not None:
        if file.truth.shape != file.predicted.shape:
            raise DataError(
                f"{file.path}: found a truth {file.truth.shape}, expected {file.predicted.shape}"
            )
        for face, landmarks in enumerate(file.truth, 1):
            missing = missing_point(landmarks)
            if missing is not None:
                x, y = landmarks[missing]
                raise DataError(
                    f"{file.path}: the truth of face {face} has point {missing} at {x:g} {y:g}, the"
                    " mark of a point that is not there, expected its place"
                )
    if file.boxes is not None and file.boxes.shape != (len(file.predicted), 4):
        raise DataError(
            f"{file.path}: found boxes {file.boxes.shape}, expected ({len(file.predicted)}, 4)"
        )
    if file.names is not None:
        if len(file.names) != len(file.predicted):
            raise DataError(
                f"{file.path}: found {len(file.names)} names for {len(file.predicted)} faces"
            )
        if len(set(file.names)) != len(file.names):
            twice = next(name for name in file.names if list(file.names).count(name) > 1)
            raise DataError(f"{file.path}: found the face {twice!r} twice")
    return file


def _boxes(values: Any, path: Path) -> Array:
    found = _numbers(values, path, "box")
    if found.ndim != 2:
        raise DataError(f"{path}: found boxes {found.shape}, expected (faces, 4)")
    _check_finite(found, path, "box")
    return found


def _landmarks(values: Any, path: Path, what: str) -> Array:
    found = _numbers(values, path, what)
    if found.ndim != 3 or found.shape[2] != 2 or not len(found):
        raise DataError(f"{path}: found {what} {found.shape}, expected (faces, points, 2)")
    _check_finite(found, path, what)
    return found


def _check_finite(found: Array, path: Path, what: str) -> None:
    """Raise DataError, naming the face, for a number that float32 cannot hold."""
    fits = np.abs(found) <= np.finfo(np.float32).max  # False for NaN
    if not fits.all():
        face = int(np.argmin(fits.reshape(len(found), -1).all(1)))
        raise DataError(f"{path}: {what} of face {face + 1} are not finite numbers")


def _numbers(values: Any, path: Path, what: str) -> Array:
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "iuf":  # NumPy makes numbers of complex ones, texts and truth
            raise ValueError
        return found.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: {what}: expected numbers, as many for every face") from None


def _by_name(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """The positions of the wanted names among the given ones; None if one is missing."""
    places = {name: i for i, name in enumerate(given)}
    found = [places.get(name, -1) for name in wanted]
    return None if -1 in found else found


def _normalised(landmarks: Array) -> tuple[Array, Array, Array]:
    """Landmarks of size 1 about 0, the size (n, 1, 1) and the centre (n, 1, 2) of each face."""
    centre = landmarks.mean(1, keepdims=True)
    scale = np.sqrt(((landmarks - centre) ** 2).sum((1, 2), keepdims=True) / landmarks.shape[1])
    return (landmarks - centre) / scale, scale, centre
