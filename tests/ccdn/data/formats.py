"""A small undamaged file of every binary format that is read, for `mutants.py`."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mutants import Format, at_fields, in_png, in_region, in_safetensors, in_zip, in_zlib

from ccdn.data import Face, read_image
from ccdn.data.images import check_image, cv2

PICTURES = ("jpg", "png", "bmp", "webp", "tiff", "gif", "ppm", "pfm", "avif", "jp2", "hdr", "ras")
FILMS = ("mp4", "avi", "mkv")
MATLAB = ("aflw.mat", "points.mat", "boxes.mat", "cofw.mat")
ARRAYS = ("npz", "gallery.npz", "region")
WEIGHTS = ("safetensors", "pt")
NAMES = (*PICTURES, *FILMS, *MATLAB, *ARRAYS, *WEIGHTS)


_kept: list[bytearray] = []


def _raise(path: Path) -> None:
    if path.read_bytes() != b"?":
        raise RuntimeError("not seen before")


def _crash(path: Path) -> None:
    if path.read_bytes() != b"?":
        os.kill(os.getpid(), signal.SIGSEGV)


def _hang(path: Path) -> None:
    while path.read_bytes() != b"?":
        pass


def _hoard(path: Path) -> None:
    if path.read_bytes() != b"?":
        _kept.append(bytearray(b"?") * (3 << 29))


# Readers that fail at everything but b"?", to see that the tests notice.
FAULTS = {"raise": _raise, "crash": _crash, "hang": _hang, "hoard": _hoard}


def formats(folder: Path, names: Sequence[str]) -> dict[str, Format]:
    """Formats by their names; `folder` is for what is made by way of a file."""
    faults = [Format(name, b"?", fault) for name, fault in FAULTS.items()]
    made = {one.name: one for one in faults}
    groups = ((PICTURES, _pictures), (FILMS, _films), (MATLAB, _mat_files))
    for group, make in (*groups, (ARRAYS, _arrays), (WEIGHTS, _weights)):
        if set(group) & set(names):
            made |= {one.name: one for one in make(folder)}
    return {name: made[name] for name in names}


def _read_picture(path: Path) -> object:
    return read_image(path), check_image(path)


def _pictures(folder: Path) -> list[Format]:
    rows, columns = np.mgrid[:40, :60]
    image = np.stack([4 * columns, 6 * rows, (rows * columns) % 256], 2).astype(np.uint8)
    marks = {"jpg": (b"\xff",), "webp": (b"VP8", b"RIFF"), "avif": (b"meta", b"iloc", b"ispe")}
    marks |= {"jp2": (b"jP", b"\xff\x4f", b"\xff\x90"), "tiff": (b"II*", b"\x04\0\1\0")}
    found = []
    for name in PICTURES:
        try:
            ok, content = cv2.imencode(f".{name}", np.float32(image) if name == "hdr" else image)
        except cv2.error:  # an OpenCV without it does not read it either
            continue
        special = (in_png,) if name == "png" else (at_fields(*marks.get(name, (b"",)), reach=64),)
        if ok:
            found.append(Format(name, content.tobytes(), _read_picture, special))
    return found


def _read_film(path: Path) -> object:
    from ccdn.inference.sources import Source, Stream

    stream = Stream(Source(path))
    try:
        return list(stream.frames(5))
    finally:
        stream.close()


def _films(folder: Path) -> list[Format]:
    found = []
    marks = (b"moov", b"stsz", b"stco", b"stts", b"tkhd", b"stsd", b"avih", b"strf", b"idx1")
    for name, code in zip(FILMS, ("mp4v", "MJPG", "mp4v"), strict=True):
        path = folder / f"film.{name}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
        for shade in range(0, 250, 40):
            writer.write(np.full((48, 64, 3), shade, np.uint8))
        writer.release()
        content = path.read_bytes()
        special = at_fields(*(mark for mark in marks if mark in content))
        found.append(Format(name, content, _read_film, (special,)))
    return found


def _mat_files(folder: Path) -> list[Format]:
    import scipy.io

    from ccdn.data import open_faces
    from ccdn.data.drawing import write_picture
    from ccdn.data.readers.w300 import read_boxes
    from ccdn.synthetic_faces import SyntheticFaces, write_protocol

    def saved(compressed: bool, **content: Any) -> bytes:
        file = io.BytesIO()
        scipy.io.savemat(file, content, do_compression=compressed)
        # Without the date, so that a mutant is the same on every day.
        return b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:]

    def renamed(kind: str, name: str) -> Any:
        def read(path: Path) -> object:
            target = path.with_name(name)
            target.unlink(missing_ok=True)
            target.symlink_to(path)
            for i in range(4 if kind == "aflw" else 0):
                write_picture(path.parent / f"flickr/0/image{i}.jpg", np.zeros((9, 9, 3), np.uint8))
            try:
                faces = open_faces(kind, path.parent, "train")
                if kind == "cofw":
                    return [faces.image(i) for i in range(len(faces))]
            except ValueError as error:
                raise type(error)(str(error).replace(name, path.name)) from None
            return faces

        return read

    def boxes_of(path: Path) -> object:
        target = path.with_name("bounding_boxes_ibug.mat")
        target.unlink(missing_ok=True)
        target.symlink_to(path)
        try:
            return read_boxes(path.parent, "ibug")
        except ValueError as error:
            raise type(error)(str(error).replace(target.name, path.name)) from None

    def points_of(path: Path) -> object:
        from ccdn.data.formats.mat import checked_shape, load_mat

        points, occluded = load_mat(path, "Points", "Occ")
        return checked_shape(points, (68, 2), path, "Points"), occluded.reshape(-1)

    random = np.random.default_rng(0)
    names = np.empty((4, 1), object)
    names[:, 0] = [f"0/image{i}.jpg" for i in range(4)]
    aflw = {
        "data": random.uniform(0, 40, (4, 38)),
        "bbox": np.tile([[1, 40, 1, 40]], (4, 1)),
        "nameList": names,
        "mask_new": np.ones((4, 19), np.uint8),
        "ra": [[2, 1, 4, 3]],
        "train_faces": 3,
    }
    box = {"imgName": "a.png", "bb_detector": [[1.0, 2, 3, 4]], "bb_ground_truth": [[1.0, 2, 3, 4]]}
    cells = np.empty((1, 2), object)
    cells[:] = [[box, {**box, "imgName": "b.png"}]]
    points = {"Points": random.uniform(0, 40, (68, 2)), "Occ": np.zeros((1, 68), np.uint8)}
    write_protocol(
        "cofw", folder / "cofw", *(SyntheticFaces(3, s, points=29, size=48) for s in (0, 1))
    )
    cofw = (folder / "cofw" / "COFW_train_color.mat").read_bytes()
    tags = at_fields(
        b"\x0e\0\0\0", b"\x06\0\0\0", b"\x05\0\0\0", b"\x09\0\0\0", b"\x01\0", reach=32
    )
    heads = at_fields(b"TREE", b"SNOD", b"HEAP", b"\x89HDF", b"\x01\0\x06\0", b"\x08\0", b"\x10\0")
    return [
        Format("aflw.mat", saved(False, **aflw), renamed("aflw", "AFLWinfo_release.mat"), (tags,)),
        Format("points.mat", saved(True, **points), points_of, (in_zlib, in_zlib, tags)),
        Format("boxes.mat", saved(True, bounding_boxes=cells), boxes_of, (in_zlib, in_zlib, tags)),
        Format("cofw.mat", cofw, renamed("cofw", "COFW_train_color.mat"), (heads, heads, in_zlib)),
    ]


def _arrays(folder: Path) -> list[Format]:
    from ccdn.data.crop_cache import CropCache, Region
    from ccdn.evaluation.gallery import load_gallery
    from ccdn.evaluation.landmark_files import read_predictions

    truth = np.random.default_rng(0).uniform(10, 90, (3, 5, 2))
    names = [f"test/{i}" for i in range(3)]
    npz, gallery = io.BytesIO(), io.BytesIO()
    many = {"pred": truth + 1, "gt": truth, "names": names, "subset_odd": [1]}
    np.savez_compressed(npz, bbox=np.ones((3, 4)), **many)
    np.savez(
        gallery,
        indices=np.arange(2),
        matrices=np.zeros((2, 2, 3)),
        size=np.array(64),
        jpeg=np.zeros(99, np.uint8),
        ends=np.array([40, 99]),
    )
    source = folder / "a.png"
    cv2.imwrite(str(source), np.zeros((9, 9, 3), np.uint8))
    face = Face("a", np.zeros((5, 2), np.float32), path=source)
    cache = CropCache(folder / "cache", {"size": 9})
    cache.save(face, Region(np.zeros((9, 9, 3), np.uint8), np.eye(3)[:2], np.zeros(4)))
    place = cache._path(face)

    def region(path: Path) -> object:
        place.write_bytes(path.read_bytes())
        found = cache.load(face)
        return None if found is None else found.pixels.sum()

    return [
        Format("npz", npz.getvalue(), read_predictions, (in_zip,)),
        Format("gallery.npz", gallery.getvalue(), load_gallery, (in_zip,)),
        Format("region", place.read_bytes(), region, (in_region,)),
    ]


def _weights(folder: Path) -> list[Format]:
    import torch

    from ccdn.checkpoint.load import load_model
    from ccdn.checkpoint.safetensors_file import save_portable
    from ccdn.checkpoint.state import Checkpoint
    from ccdn.checkpoint.torch_file import save_checkpoint
    from ccdn.config import load_config
    from ccdn.models import build_model

    small = ["input_size=32", "stem_stride=1", "stem_channels=4", "depth=1", "channels=8"]
    small += ["stage_channels=[8,8]", "excitations=2", "points=5"]
    config = load_config("tiny", [f"model.{field}" for field in small])
    torch.manual_seed(0)
    model = build_model(config.model)
    checkpoint = Checkpoint(config, model.state_dict(), torch.zeros(5, 2))
    for name, save in (("w.safetensors", save_portable), ("w.pt", save_checkpoint)):
        save(folder / name, checkpoint)
    return [
        Format(
            "safetensors", (folder / "w.safetensors").read_bytes(), load_model, (in_safetensors,)
        ),
        Format("pt", (folder / "w.pt").read_bytes(), load_model, (in_zip,)),
    ]
