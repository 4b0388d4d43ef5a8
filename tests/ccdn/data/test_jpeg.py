"""JPEGs whose pixels end before their end marker does, and whole ones that only look so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ccdn.data import DataError, check_image, read_image
from ccdn.data.jpeg import lacks_blocks, shows_grey

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "full colour": {"subsampling": 0},
    "own tables": {"optimize": True},
    "grey": {"mode": "L"},
    "four inks": {"mode": "CMYK"},
    "progressive": {"progressive": True},
    "progressive grey": {"progressive": True, "mode": "L"},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 3},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 2},
}


def photo(width: int = 150, height: int = 130) -> Image.Image:
    """Smooth colours with noise, as a photograph has, without exact mid-grey areas."""
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2))


def encoded(kind: str, picture: Image.Image | None = None) -> bytes:
    options = dict(KINDS[kind])
    file = io.BytesIO()
    picture = (picture or photo()).convert(options.pop("mode", "RGB"))
    picture.save(file, "JPEG", quality=85, **options)
    return file.getvalue()


def cut(content: bytes, share: float) -> bytes:
    """The header, a share of the coded bytes, and an end marker."""
    start = content.index(b"\xff\xda")
    kept = content[: start + 20 + int(share * (len(content) - start - 22))]
    return kept.rstrip(b"\xff") + b"\xff\xd9"


@pytest.mark.parametrize("check", [read_image, check_image])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_cut_that_an_end_marker_hides(
    kind: str, check: Callable[[Path], object], tmp_path: Path
) -> None:
    path, whole = tmp_path / "a.jpg", encoded(kind)
    path.write_bytes(whole)
    check(path)
    for share in (0.01, 1 / 3, 0.5, 0.8):
        path.write_bytes(cut(whole, share))
        with pytest.raises(DataError, match=r"a\.jpg: (the image file is truncated|not an image)"):
            check(path)


@pytest.mark.parametrize("kind", ["restarts", "many restarts", "progressive with restarts"])
def test_a_cut_between_two_restarts(kind: str, tmp_path: Path) -> None:
    """No run of coded bytes ends early: there are too few."""
    whole, path = encoded(kind), tmp_path / "a.jpg"
    for marker in (b"\xff\xd0", b"\xff\xd3"):
        if marker in whole:
            path.write_bytes(whole[: whole.index(marker)] + b"\xff\xd9")
            with pytest.raises(DataError, match="the image file is truncated"):
                read_image(path)


def test_a_gap_between_two_restarts(tmp_path: Path) -> None:
    whole, path = encoded("restarts"), tmp_path / "a.jpg"
    begin, end = whole.index(b"\xff\xd1"), whole.index(b"\xff\xd2")
    path.write_bytes(whole[: begin + 2 + (end - begin) // 3] + whole[end:])
    with pytest.raises(DataError, match="the image file is truncated"):
        read_image(path)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_may_follow_a_whole_jpeg(kind: str, tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jpg", encoded(kind)
    expected = read_image(_written(path, whole))
    thumbnail = b"\xff\xe1" + (len(whole) + 2).to_bytes(2, "big") + whole
    for content in (
        whole + b"\0" * 3000,
        whole + whole,  # several pictures in one file, as MPO has them
        whole + whole[:900] + b"\xff\xd9",  # the second of them is cut
        whole[:2] + thumbnail + whole[2:],
        whole[:-2] + b"\xff\xff\xff\xd9",  # fill bytes before the end marker
        whole[:2] + b"\xff\xfe\0\x06note" + whole[2:],
    ):
        np.testing.assert_array_equal(read_image(_written(path, content)), expected)
        check_image(path)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("size", [(1, 1), (9, 40), (65, 33), (160, 160)])
def test_pictures_that_are_mid_grey(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    """They look like missing blocks, but are whole."""
    path = tmp_path / "a.jpg"
    for colour in ((128, 128, 128), (255, 0, 0)):
        path.write_bytes(encoded(kind, Image.new("RGB", size, colour)))
        read_image(path)
        check_image(path)
    half = np.full((64, 64, 3), 128, np.uint8)
    half[:32] = np.asarray(photo(64, 32))
    path.write_bytes(encoded(kind, Image.fromarray(half)))
    read_image(path)
    content = cut(path.read_bytes(), 0.2)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg: (the image file is truncated|not an image)"):
        read_image(path)


def test_where_grey_is_looked_for() -> None:
    image = np.zeros((64, 80, 3), np.uint8)
    assert not shows_grey(image)
    image[-1, -1] = 128
    assert shows_grey(image)
    image[-1, -1] = 128, 128, 127
    assert not shows_grey(image)
    for y, x in ((8, 16), (10, 21), (31, 3)):
        block = np.zeros((64, 80, 3), np.uint8)
        block[y : y + 8, x : x + 8] = 128
        assert shows_grey(block)
        assert shows_grey(block[::8, ::8], 1) is False  # a single block, reduced
    assert not shows_grey(np.full((1, 3, 3), 127, np.uint8))


def test_other_jpegs_are_left_to_the_decoder() -> None:
    whole = encoded("baseline")
    assert not lacks_blocks(whole, True)
    assert lacks_blocks(whole[:-2], True)  # no end marker at all
    frame = whole.index(b"\xff\xc0")
    garbage = whole[: frame + 4] + b"\0" * 8 + whole[frame + 12 :]
    assert not lacks_blocks(garbage, True)


def test_real_photographs_are_whole(shared: Path) -> None:
    for path in sorted((shared / "300w").rglob("*.jpg")):
        read_image(path)
    for path in sorted((shared / "samples").rglob("*.jpg")):
        read_image(path)


@pytest.mark.parametrize("kind", list(KINDS))
def test_bytes_changed_at_random(kind: str, tmp_path: Path) -> None:
    """A picture or a DataError, whatever the markers say."""
    whole, path = encoded(kind, photo(48, 40)), tmp_path / "a.jpg"
    random = np.random.default_rng(3)
    for _ in range(60):
        content = bytearray(whole)
        for place in random.integers(2, len(whole), 3):
            content[place] = random.choice([0, 1, 3, 0xC2, 0xD0, 0xD9, 0xDA, 0xDD, 0xFF])
        path.write_bytes(content)
        try:
            assert read_image(path).ndim == 3
        except DataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017


def test_headers_too_short_for_what_they_say() -> None:
    whole = encoded("restarts")
    scan, frame = whole.index(b"\xff\xda"), whole.index(b"\xff\xc0")
    no_scan = whole[: scan + 2] + b"\0\x03\x01" + whole[scan + 14 :]
    assert not lacks_blocks(no_scan, True)
    no_sampling = bytearray(whole)
    no_sampling[frame + 11 : frame + 20 : 3] = b"\0\0\0"
    assert lacks_blocks(bytes(no_sampling), True)  # finer blocks would have more restarts
