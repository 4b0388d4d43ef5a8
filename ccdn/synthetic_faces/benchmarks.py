"""Writing synthetic faces to disk in the official format of a benchmark."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ccdn.data.drawing import write_picture
from ccdn.data.formats.pts import write_pts
from ccdn.data.readers import aflw, cofw, w300, wflw
from ccdn.runtime.files import atomic_write, write_json
from ccdn.synthetic_faces.generator import SyntheticFaces

# Parts of 300W, how many of a hundred faces go there, and the format that its pictures have.
_TRAIN_PARTS = (("afw", 11, ".jpg"), ("helen/trainset", 63, ".jpg"), ("lfpw/trainset", 26, ".png"))
_TEST_PARTS = (("helen/testset", 48, ".jpg"), ("lfpw/testset", 33, ".png"), ("ibug", 19, ".jpg"))
_JPEG_QUALITY = 95
_GREY_IN = 10  # of so many pictures of COFW one is grey
_PAIR_IN = 10  # of so many faces of WFLW two share a picture


def write_protocol(
    protocol: str, root: str | Path, train: SyntheticFaces, test: SyntheticFaces | None = None
) -> int:
    """Write faces in a benchmark's layout on disk, and return how many were written.

    protocol: 300w, wflw, cofw or aflw (PROTOCOLS), of 68, 98, 29 and 19 points. `synthetic.json` in
    the root says how to make the same faces again. Raises ValueError for another protocol or number
    of points, for two sets with the same seed, and if the root already holds data. After an error
    or Ctrl-C no written file remains.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"found protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    points, write = PROTOCOLS[protocol]
    root = Path(root)
    sets = {"train": train} if test is None else {"train": train, "test": test}
    for faces in sets.values():
        if faces.points != points:
            raise ValueError(
                f"{protocol} has {points} points, found synthetic faces with {faces.points}"
            )
    if test is not None and test.seed == train.seed:
        raise ValueError(f"train and test faces need different seeds, found {train.seed} for both")
    if root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root} is not empty, expected a new folder")
    there = root.is_dir()
    root.mkdir(parents=True, exist_ok=True)
    try:
        write(root, sets)
        about = {name: faces.describe() for name, faces in sets.items()}
        write_json(root / "synthetic.json", about)
    except BaseException:  # a reader would take half of the files for a smaller benchmark
        for path in list(root.iterdir()) if there else [root]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
    return sum(len(faces) for faces in sets.values())


def write_300w(root: str | Path, train: SyntheticFaces, test: SyntheticFaces | None = None) -> int:
    """Write faces of 68 points in 300W's layout on disk, as `write_protocol`."""
    return write_protocol("300w", root, train, test)


def _write_300w(root: Path, sets: dict[str, SyntheticFaces]) -> None:
    """The training faces spread over afw, helen/trainset and lfpw/trainset, the test faces over
    helen/testset, lfpw/testset and ibug, about as 300W is; each picture next to its .pts.
    """
    for name, faces in sets.items():
        parts = _TRAIN_PARTS if name == "train" else _TEST_PARTS
        ends = np.rint(np.cumsum([share for _, share, _ in parts]) * len(faces) / 100).astype(int)
        start = 0
        for (part, _, suffix), end in zip(parts, ends.tolist(), strict=True):
            (root / part).mkdir(parents=True, exist_ok=True)
            boxes = {}
            for index in range(start, end):
                # Some names of ibug contain a space.
                gap = " " if part == "ibug" and index % 4 == 0 else "_"
                stem = root / part / f"synthetic{gap}{index:05d}"
                face = faces.face(index)
                write_picture(stem.with_suffix(suffix), faces.image(index), _JPEG_QUALITY)
                write_pts(stem.with_suffix(".pts"), face.landmarks)
                boxes[stem.name + suffix] = (_box(faces, index), _bounds(face.landmarks))
            _write_300w_boxes(root / "Bounding Boxes", part, boxes)
            start = end


def _write_300w_boxes(
    folder: Path, part: str, boxes: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    cells = np.empty((1, len(boxes)), object)
    for number, (name, (detector, truth)) in enumerate(boxes.items()):
        cells[0, number] = {
            "imgName": name,
            "bb_detector": detector[None] + 1.0,
            "bb_ground_truth": truth[None] + 1.0,
        }
    name = f"bounding_boxes_{part.replace('/', '_')}.mat"
    _write_mat(folder / name, {"bounding_boxes": cells})


def _write_wflw(root: Path, sets: dict[str, SyntheticFaces]) -> None:
    """Rows of 207 fields; some pictures hold two faces."""
    for name, faces in sets.items():
        rows = []
        index = 0
        while index < len(faces):
            together = 2 if index % _PAIR_IN == 0 and index + 1 < len(faces) else 1
            members = range(index, index + together)
            path = f"{index // 1000}--Synthetic/{name}_{index:05d}.jpg"
            image = np.concatenate([faces.image(member) for member in members], axis=1)
            write_picture(root / "WFLW_images" / path, image, _JPEG_QUALITY)
            for place, member in enumerate(members):
                moved = np.array([place * faces.size, 0.0])
                landmarks = faces.face(member).landmarks.astype(np.float64) + moved
                box = _box(faces, member) + np.tile(moved, 2)
                flags = faces.attributes(member)
                numbers = [*landmarks.ravel(), *box]
                fields = [f"{value:.6f}" for value in numbers]
                fields += [str(int(flags[key])) for key in wflw.ATTRIBUTES]
                rows.append(" ".join([*fields, path]))
            index += together
        table = root / wflw.LIST_FOLDER / f"list_98pt_rect_attr_{name}.txt"
        with atomic_write(table) as file:
            file.write(("\n".join(rows) + "\n").encode())


def _write_cofw(root: Path, sets: dict[str, SyntheticFaces]) -> None:
    """MATLAB v7.3 files: HDF5 behind a header of 512 bytes, every array transposed."""
    import h5py

    header = b"MATLAB 7.3 MAT-file, Platform: synthetic faces".ljust(116) + b" " * 8
    header += (0x0200).to_bytes(2, "little") + b"IM"
    for name, faces in sets.items():
        suffix = "Tr" if name == "train" else "T"
        # In memory, because HDF5 crashes if a file on disk cannot be finished.
        content = io.BytesIO()
        with h5py.File(content, "w", userblock_size=512) as file:
            cells = file.create_dataset(f"Is{suffix}", (1, len(faces)), h5py.ref_dtype)
            cells.attrs["MATLAB_class"] = np.bytes_("cell")
            boxes, phis = np.zeros((4, len(faces))), np.zeros((87, len(faces)))
            for index in range(len(faces)):
                image = faces.image(index)
                turned = image.transpose(2, 1, 0)
                if index % _GREY_IN == _GREY_IN - 1:
                    turned = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).T
                stored = file.create_dataset(f"#refs#/{index:05d}", data=turned, compression=4)
                stored.attrs["MATLAB_class"] = np.bytes_("uint8")
                cells[0, index] = stored.ref
                x0, y0, x1, y1 = _box(faces, index)
                boxes[:, index] = x0 + 1, y0 + 1, x1 - x0, y1 - y0
                x, y = faces.face(index).landmarks.astype(np.float64).T + 1.0
                phis[:, index] = np.concatenate([x, y, ~faces.visible(index)])
            for variable, values in ((f"bboxes{suffix}", boxes), (f"phis{suffix}", phis)):
                stored = file.create_dataset(variable, data=values)
                stored.attrs["MATLAB_class"] = np.bytes_("double")
        content.getbuffer()[: len(header)] = header
        with atomic_write(root / cofw.FILES[name]) as whole:
            whole.write(content.getbuffer())


def _write_aflw(root: Path, sets: dict[str, SyntheticFaces]) -> None:
    """One file for all faces, in its own order; `ra` puts the training faces first."""
    every = [(name, index) for name, faces in sets.items() for index in range(len(faces))]
    order = np.random.default_rng(sets["train"].seed).permutation(len(every))
    count = len(every)
    data, bbox = np.zeros((count, 38)), np.zeros((count, 4))
    mask, names = np.zeros((count, 19)), np.empty((count, 1), object)
    for place, (name, index) in zip(order.tolist(), every, strict=True):
        faces = sets[name]
        path = f"{(0, 2, 3)[place % 3]}/image{place:05d}.jpg"
        write_picture(root / "flickr" / path, faces.image(index), _JPEG_QUALITY)
        data[place] = faces.face(index).landmarks.T.ravel()
        bbox[place] = _box(faces, index)[[0, 2, 1, 3]]
        mask[place] = faces.visible(index)
        names[place, 0] = path
    content: dict[str, Any] = {"data": data, "bbox": bbox, "mask_new": mask, "nameList": names}
    content["ra"] = (order + 1)[None]
    # The official file needs no such number: its first 20000 are the training set.
    content[aflw.TRAIN_FACES] = len(sets["train"])
    _write_mat(root / aflw.FILE, content)


PROTOCOLS: dict[str, tuple[int, Callable[[Path, dict[str, SyntheticFaces]], None]]] = {
    "300w": (w300.POINTS, _write_300w),
    "wflw": (wflw.POINTS, _write_wflw),
    "cofw": (cofw.POINTS, _write_cofw),
    "aflw": (aflw.POINTS, _write_aflw),
}


def _box(faces: SyntheticFaces, index: int) -> np.ndarray:
    box = faces.face(index).box
    assert box is not None  # generated faces always have one
    return box.astype(np.float64)


def _bounds(landmarks: np.ndarray) -> np.ndarray:
    return np.concatenate([landmarks.min(0), landmarks.max(0)]).astype(np.float64)


def _write_mat(path: Path, content: dict[str, Any]) -> None:
    import scipy.io

    with atomic_write(path) as file:
        scipy.io.savemat(file, content)
