"""Reading images: RGB order, orientation, and files that are not whole images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccdn.data import DataError, check_image, read_image
from ccdn.data.images import cv2, readable
from ccdn.data.jpeg import parse_jpeg


def _gradient() -> np.ndarray:
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0] = 200  # red
    image[:20, :, 1] = np.arange(60)
    return image


def _encoded(suffix: str) -> bytes:
    ok, content = cv2.imencode(suffix, cv2.cvtColor(_gradient(), cv2.COLOR_RGB2BGR))
    assert ok
    return content.tobytes()


def test_channels_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_encoded(".png"))
    np.testing.assert_array_equal(read_image(path), _gradient())
    check_image(path)


def test_grey_image_has_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    assert cv2.imwrite(str(path), np.full((5, 7), 9, np.uint8))
    np.testing.assert_array_equal(read_image(path), np.full((5, 7, 3), 9))


def test_orientation_is_applied_only_when_asked(tmp_path: Path) -> None:
    exif = (  # one entry, orientation 6: turn clockwise by 90 degrees
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    content = _encoded(".jpg")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path = tmp_path / "turned.jpg"
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path, orient=True).shape == (60, 40, 3)
    assert read_image(path, orient=False).shape == (40, 60, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("check", [read_image, check_image])
def test_truncated_image_is_named(tmp_path: Path, suffix: str, check) -> None:
    content = _encoded(suffix)
    for kept in (0.3, 0.8, 1 - 2 / len(content)):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(DataError, match=rf"cut\{suffix}: the image file is truncated"):
            check(path)


def test_a_thumbnail_does_not_hide_a_truncation(tmp_path: Path) -> None:
    content = _encoded(".jpg")
    thumbnail = content  # a whole JPEG inside the header
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path = tmp_path / "thumb.jpg"
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path).shape == (40, 60, 3)
    path.write_bytes(content[:2] + segment + content[2:-100])
    with pytest.raises(DataError, match="truncated"):
        read_image(path)


START = b"\xff\xd8"
SCAN = b"\xff\xda\x00\x02" + b"\x11" * 8


@pytest.mark.parametrize(
    ("header", "whole"),
    [
        (b"", True),
        (b"\xff\xff\xff\xff", True),  # fill bytes before a marker
        (b"\xff\x01\xff\xd0\xff\xd9", True),  # markers that carry nothing
        (b"\xff\xe1\x01\x04" + b"\xff\xd9" * 129, True),  # an end marker in a segment of 260 bytes
        (b"\xff\xe1\xff\xff" + b"\xff\xd9" * 9, False),  # a segment beyond the end of the file
    ],
)
def test_the_end_of_a_jpeg_is_looked_for_behind_its_header(header: bytes, whole: bool) -> None:
    assert (parse_jpeg(START + header + SCAN + b"\xff\xd9") is not None) is whole
    assert parse_jpeg(START + header + SCAN) is None


def test_what_has_no_markers_is_left_to_the_decoder() -> None:
    assert parse_jpeg(START + b"none") is not None
    for cut in (b"", b"\xff", b"\xff\xda\x00"):
        assert parse_jpeg(START + cut) is None


def test_the_size_of_a_checked_image(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        for height, width in ((40, 64), (41, 57), (47, 63)):
            path = tmp_path / f"a{suffix}"
            assert cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
            assert np.abs(np.subtract(check_image(path), (width, height))).max() <= 7
            assert (check_image(path) == (width, height)) == (width == 64)


def test_trailing_bytes_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "padded.jpg"
    path.write_bytes(_encoded(".jpg") + b"\0" * 3000)
    assert read_image(path).shape == (40, 60, 3)


def test_a_fault_in_reading_names_the_file_and_what_it_should_be() -> None:
    for error, message in (
        (KeyError("odd"), r"a\.csv: not a table: 'odd'"),
        (UnicodeError("odd"), r"a\.csv: not a table: odd"),
        (PermissionError(13, "no entry"), r"a\.csv: cannot read: no entry"),
        (OSError("odd"), r"a\.csv: cannot read: odd"),
    ):
        with (
            pytest.raises(DataError, match=f"^{message}$"),
            readable(Path("a.csv"), "a table", KeyError, UnicodeError),
        ):
            raise error


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: image not found"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png: the image file is empty"):
        read_image(tmp_path / "empty.png")
    whole = _encoded(".jpg")
    for twice in (b"\xff\xd8", b"\xff\xd9"):  # a start or an end before the picture
        (tmp_path / "two.jpg").write_bytes(whole[:2] + twice + whole[2:])
        with pytest.raises(DataError, match=r"two\.jpg: not an image that OpenCV can decode"):
            read_image(tmp_path / "two.jpg")
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match="cannot read the image"):
        read_image(tmp_path)
