"""Crops kept on disk: bit-identical, remade if they do not fit, and never an obstacle."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ccdn.config import load_config
from ccdn.data import CropDataset, DataError, read_folder
from ccdn.data.crop_cache import MAGIC, CropCache
from ccdn.data.images import cv2
from ccdn.plan.faces import open_training_faces
from ccdn.synthetic_faces import SyntheticFaces

FACES = 4


@pytest.fixture
def photographs(tmp_path: Path, write_face: Callable[..., np.ndarray]) -> Path:
    """A folder of faces, and next to it `kept` for the cache."""
    for number in range(FACES):
        write_face(tmp_path / "faces" / f"{number}.png", number)
    return tmp_path


def crops_of(root: Path, **options: Any) -> CropDataset:
    chosen = {"size": 32, "box": "gt", "augmentation": "newell", "seed": 5, "cache": False}
    faces = read_folder(root / "faces")
    return CropDataset(faces, **{**chosen, "cache_dir": root / "kept", **options})


def refuse_images(crops: CropDataset) -> None:
    def image(index: int) -> np.ndarray:
        raise AssertionError(f"face {index} was decoded")

    crops.faces.image = image  # type: ignore[method-assign]


def same(one: CropDataset, other: CropDataset) -> bool:
    return all(
        torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key]))
        for a, b in ((one[index], other[index]) for index in range(len(one)))
        for key in a
    )


def files(root: Path) -> list[Path]:
    return sorted((root / "kept").iterdir())


@pytest.mark.parametrize("changes", ["newell", "none"])
@pytest.mark.parametrize("memory", [False, True])
def test_the_same_bits_without_the_photographs(
    photographs: Path, changes: str, memory: bool
) -> None:
    plain = crops_of(photographs, cache_dir=None, augmentation=changes)
    first = crops_of(photographs, augmentation=changes)
    assert same(first, plain)
    assert len(files(photographs)) == FACES
    again = crops_of(photographs, augmentation=changes, cache=memory)
    refuse_images(again)
    assert same(again, plain)
    again.set_epoch(3)
    plain.set_epoch(3)
    assert same(again, plain)
    pixels, _, _ = again.region(0)
    assert not pixels.flags.owndata
    assert not pixels.flags.writeable


@pytest.mark.parametrize("change", ["photograph", "time", "landmarks"])
def test_what_changed_is_made_again(
    photographs: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    crops_of(photographs).preload()
    path = photographs / "faces" / "2.png"
    if change == "photograph":
        assert cv2.imwrite(str(path), np.full((48, 56, 3), 9, np.uint8))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    else:
        notes = path.with_suffix(".pts")
        lines = notes.read_text().splitlines()
        lines[3] = "11.5 12.5"
        notes.write_text("\n".join(lines) + "\n")
    read: list[int] = []
    crops = crops_of(photographs)
    decode = crops.faces.image
    crops.faces.image = lambda index: (read.append(index), decode(index))[1]  # type: ignore[method-assign]
    assert same(crops, crops_of(photographs, cache_dir=None))
    assert read == [2]
    assert crops.disk is not None
    assert (crops.disk.stale, crops.disk.damaged) == (1, 0)
    assert "not of" in caplog.text
    assert "2.png and its annotation as they are now: made again" in caplog.text
    assert len(files(photographs)) == FACES
    settled = crops_of(photographs)
    refuse_images(settled)
    settled.preload()


@pytest.mark.parametrize("how", ["empty", "cut", "pixel", "header", "other", "longer", "shape"])
def test_damaged_files_are_said_and_made_again(
    photographs: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    crops_of(photographs).preload()
    victim = files(photographs)[1]
    content = bytearray(victim.read_bytes())
    if how == "pixel":
        content[-7] ^= 1
    elif how == "header":
        content[len(MAGIC) + 30] ^= 1
    elif how == "shape":
        content = content.replace(b'"shape"', b'"shabe"')
    made = {"empty": b"", "cut": content[:-100], "other": b"GIF89a", "longer": content + b"\0"}
    victim.write_bytes(made.get(how, bytes(content)))
    crops = crops_of(photographs)
    assert same(crops, crops_of(photographs, cache_dir=None))
    assert crops.disk is not None
    assert crops.disk.damaged == 1
    assert f"{victim}: damaged" in caplog.text
    settled = crops_of(photographs)
    refuse_images(settled)
    settled.preload()


def test_every_byte_of_the_header_counts(photographs: Path) -> None:
    crops = crops_of(photographs)
    crops.preload()
    assert crops.disk is not None
    face = crops.faces.face(0)
    path = crops.disk._path(face)
    content = path.read_bytes()
    expected = crops.disk.load(face)
    assert expected is not None
    for place in (*range(0, 1200, 7), *range(1200, len(content), 997)):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        found = crops.disk.load(face)
        if found is not None:  # zeros between header and pixels
            assert np.array_equal(found.pixels, expected.pixels)
            assert np.array_equal(found.matrix, expected.matrix)
            assert np.array_equal(found.box, expected.box)


def test_other_crops_share_a_folder(photographs: Path) -> None:
    for number, options in enumerate(
        ({}, {"size": 24}, {"margin": 0.4}, {"augmentation": "strong"}, {"augmentation": "none"})
    ):
        crops = crops_of(photographs, **options)
        assert same(crops, crops_of(photographs, cache_dir=None, **options))
        assert len(files(photographs)) == (number + 1) * FACES


def test_a_folder_that_cannot_be_written_is_said_once(
    photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photographs / "kept").write_text("a file where a folder should be")
    crops = crops_of(photographs)
    assert same(crops, crops_of(photographs, cache_dir=None))
    assert caplog.text.count("crops cannot be kept on disk") == 1
    assert "decoded from the images" in caplog.text


def test_a_full_disk_is_said_once_and_what_is_there_is_read(
    photographs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops_of(photographs).preload()
    for path in files(photographs)[:2]:
        path.unlink()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ccdn.data.crop_cache.atomic_write", full)
    crops = crops_of(photographs)
    assert same(crops, crops_of(photographs, cache_dir=None))
    assert caplog.text.count("No space left on device") == 1
    assert len(files(photographs)) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_read(photographs: Path, caplog: pytest.LogCaptureFixture) -> None:
    crops_of(photographs).preload()
    files(photographs)[0].unlink()
    (photographs / "kept").chmod(0o555)
    try:
        assert same(crops_of(photographs), crops_of(photographs, cache_dir=None))
    finally:
        (photographs / "kept").chmod(0o755)
    assert caplog.text.count("crops cannot be kept on disk (Permission denied)") == 1


def test_a_missing_photograph_is_an_error_although_its_crop_is_there(photographs: Path) -> None:
    crops = crops_of(photographs)
    crops.preload()
    (photographs / "faces" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        crops[1]


def test_generated_faces_are_not_kept_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        crops = CropDataset(SyntheticFaces(2, size=64), 32, cache_dir=tmp_path / "kept")
    crops.preload()
    assert crops.disk is None
    assert "faces that have no file cannot be checked" in caplog.text


def test_workers_and_processes_fill_one_folder(photographs: Path) -> None:
    """Two processes at once, one with two workers, and no file is left half written."""
    code = (
        "import sys; from ccdn.data import CropDataset, read_folder; root = sys.argv[1];"
        "options = dict(box='gt', augmentation='newell', seed=5, cache=False);"
        "faces = read_folder(root + '/faces');"
        "[CropDataset(faces, 32, cache_dir=root + '/kept', **options).preload() for _ in '123']"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(photographs)])
    crops = crops_of(photographs)
    batches = list(DataLoader(crops, batch_size=2, num_workers=2))
    assert other.wait() == 0
    plain = crops_of(photographs, cache_dir=None)
    assert torch.equal(batches[1]["image"][1], plain[3]["image"])
    assert len(files(photographs)) == FACES
    settled = crops_of(photographs)
    refuse_images(settled)
    assert same(settled, plain)


def test_old_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.region.x.tmp", tmp_path / ".b.region.y.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    CropCache(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


def test_a_run_keeps_its_training_crops(photographs: Path) -> None:
    fields = [
        "data.kind=folder",
        f"data.root={photographs / 'faces'}",
        f"data.cache_dir={photographs / 'kept'}",
        "data.box=gt",
        "data.holdout=0.25",
    ]
    crops = open_training_faces(load_config("tiny", fields)).crops
    crops.preload()
    assert len(files(photographs)) == len(crops) == 3
