"""Small untrusted files that would take hours of work or all memory, or read another file."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccdn.checkpoint.load import load_checkpoint
from ccdn.checkpoint.pickles import check_pickle
from ccdn.checkpoint.safetensors_file import load_portable
from ccdn.checkpoint.state import CheckpointError
from ccdn.config import ConfigError, config_from_dict, load_config
from ccdn.data import DataError, Face
from ccdn.data.crop_cache import MAGIC, CropCache, Region
from ccdn.data.image_types import MOST_PIXELS, is_film
from ccdn.data.images import cv2
from ccdn.evaluation.gallery import load_gallery
from ccdn.evaluation.result_files import read_arrays
from ccdn.inference.sources import Source, Stream
from ccdn.runtime.untrusted import MOST_SETTINGS, check_plain, check_yaml

# Ten of the line before, on every line.
LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


def laughs(levels: int) -> list[Any]:
    found: list[Any] = [1] * 10
    for _ in range(levels):
        found = [found] * 10
    return found


# ---- configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "its aliases stand for too many values"),
        (MERGES, "its aliases stand for too many values"),
        ("a: &a [*a]", "its aliases stand for too many values|recursive"),
        (f"train: {{lr: {'9' * 6000}}}", "found a number of 6000 characters"),
        (f"train: {{epochs: 1{':1' * 9999}}}", "found a number of 19999 characters"),
        ("train: {epochs: 0x_}", "not a readable YAML file: invalid literal for int"),
        ("data: {augmentation_fields: " + "{a: " * 300 + "1" + "}" * 300 + "}", "not a readable"),
    ],
)
def test_yaml(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=rf"bad\.yaml: not a readable YAML file: .*({message})|{message}"
    ):
        load_config(tmp_path / "bad.yaml")


def test_yaml_that_is_right() -> None:
    check_yaml("")
    check_yaml("a: &a {b: [1, 2.5, text]}\nc: *a\nd: {<<: *a}\n")


@pytest.mark.parametrize("value", ["9" * 6000, "0x_", "[" * 300])
def test_an_override(value: str) -> None:
    with pytest.raises(ConfigError, match=r"override 'train\.lr="):
        load_config("tiny", [f"train.lr={value}"])


def test_plain_values() -> None:
    check_plain({"a": [1, (2, {"b": {3}})]})
    check_plain([0] * MOST_SETTINGS)
    nested: Any = 1
    for _ in range(20):
        nested = [nested]
    check_plain(nested)
    circle: list[Any] = []
    circle.append(circle)
    for bad in ([0] * (MOST_SETTINGS + 1), laughs(8), [nested], circle, {"a": circle}):
        with pytest.raises(ValueError, match="too many values, or is nested too deep"):
            check_plain(bad)


def test_a_saved_configuration_refers_to_nothing() -> None:
    """If a file comes from somebody else, `${oc.env:HOME}` would end up in what is written."""
    with pytest.raises(ConfigError, match=r"w\.pt: data\.root: found the reference '\$\{oc\.env"):
        config_from_dict({"data": {"root": "${oc.env:HOME}"}}, "w.pt")
    with pytest.raises(ConfigError, match=r"w\.pt: it holds too many values"):
        config_from_dict({"data": {"augmentation_fields": {"a": laughs(8)}}}, "w.pt")


# ---- weights -----------------------------------------------------------------------------------


def repacked(
    source: Path, target: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def _laughing(content: dict[str, Any]) -> None:
    content["config"]["data"]["augmentation_fields"] = {"a": laughs(8)}


def _expanded(content: dict[str, Any]) -> None:
    content["mean_shape"] = torch.zeros(1).expand(1 << 20, 1 << 20)


def _deep(content: dict[str, Any]) -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    content["best"] = {"a": nested}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_laughing, "it holds too many values, or is nested too deep"),
        (_deep, "it holds too many values, or is nested too deep"),
        (_expanded, r"found a tensor of the shape \(1048576, 1048576\) in a file of \d+ bytes"),
    ],
)
def test_a_checkpoint(
    change: Callable[[dict[str, Any]], None], message: str, mean_shape_weights: Path, tmp_path: Path
) -> None:
    content = torch.load(mean_shape_weights, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=rf"bad\.pt: {message}"):
        load_checkpoint(tmp_path / "bad.pt")


def test_a_checkpoint_that_is_packed(mean_shape_weights: Path, tmp_path: Path) -> None:
    """A megabyte could unpack to a gigabyte; what torch writes is not compressed."""

    def more(name: str, content: bytes) -> bytes:
        return content + bytes(1 << 28 if name.endswith("data/0") else 0)

    path = repacked(mean_shape_weights, tmp_path / "bad.pt", more, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=r"bad\.pt: expected a checkpoint") as caught:
        load_checkpoint(path)
    assert "it is compressed" in str(caught.value.__cause__)


# A tuple that holds nothing but a tuple, and so on, as a dictionary's key: Python would look at all
# of them, 1 000 000 deep, and end the process. The same with ten times the tuple before, 12 times.
DEEP_KEY = b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
WIDE_KEY = b"\x80\x02})q\x000"
for _level in range(12):
    WIDE_KEY += b"(" + bytes([0x68, _level]) * 10 + bytes([0x74, 0x71, _level + 1, 0x30])
WIDE_KEY += b"h\x0cK\x01s."


@pytest.mark.parametrize("pickled", [DEEP_KEY, WIDE_KEY])
def test_a_pickle_that_would_end_python(
    pickled: bytes, mean_shape_weights: Path, tmp_path: Path
) -> None:
    def change(name: str, content: bytes) -> bytes:
        return pickled if name.endswith("data.pkl") else content

    path = repacked(mean_shape_weights, tmp_path / "bad.pt", change)
    with pytest.raises(CheckpointError, match=r"bad\.pt: expected a checkpoint") as caught:
        load_checkpoint(path)
    assert "too many values, or is nested too deep" in str(caught.value.__cause__)


@pytest.mark.parametrize("bad", [b"", b"h\x00.", b"t.", b"q\x00.", b"\x85.", b"(q\x00.", b"\xff"])
def test_an_invalid_pickle(bad: bytes) -> None:
    if bad == b"h\x00.":  # refers to nothing: torch says so
        check_pickle(bad)
        return
    with pytest.raises(ValueError, match=r"pickle|opcode"):
        check_pickle(bad)


def test_a_storage_larger_than_its_bytes(mean_shape_weights: Path, tmp_path: Path) -> None:
    """It would be what lies behind it in the memory."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        import pickletools

        codes = list(pickletools.genops(content))
        first = next(i for i, (code, _, _) in enumerate(codes) if code.name == "BINPERSID")
        at = max(i for i in range(first) if codes[i][0].name.startswith("BININT"))
        start, end = codes[at][2], codes[at + 1][2]
        return content[:start] + b"J" + struct.pack("<i", 1 << 28) + content[end:]

    path = repacked(mean_shape_weights, tmp_path / "bad.pt", change)
    with pytest.raises(CheckpointError, match=r"bad\.pt: expected a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [0, 0]},
        {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 0]},
    ],
)
def test_a_tensor_of_a_safetensors_file(tensor: dict[str, Any], tmp_path: Path) -> None:
    header = json.dumps({"a": tensor}).encode()
    (tmp_path / "bad.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: expected a safetensors file"):
        load_portable(tmp_path / "bad.safetensors")


def test_a_safetensors_file_that_is_all_header(tmp_path: Path) -> None:
    one = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"tensor {i}": one for i in range(70_000)}).encode()
    (tmp_path / "bad.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: .*") as caught:
        load_portable(tmp_path / "bad.safetensors")
    assert "expected 4194304 at most" in str(caught.value.__cause__)


# ---- arrays ------------------------------------------------------------------------------------


def npz(path: Path, header: dict[str, Any], megabytes: int) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("pred.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"fortran_order": False, **header})
        for _ in range(megabytes):
            file.write(bytes(1 << 20))
    return path


def test_arrays_that_are_packed(tmp_path: Path) -> None:
    path = npz(tmp_path / "bad.npz", {"descr": "|u1", "shape": (600 << 20,)}, 600)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"bad\.npz: .*its parts are \d+ bytes, expected 536870912"):
        read_arrays(path)


def test_arrays_that_take_no_bytes(tmp_path: Path) -> None:
    path = npz(tmp_path / "bad.npz", {"descr": "|S0", "shape": (1 << 40,)}, 0)
    with pytest.raises(DataError, match=r"bad\.npz: not a readable \.npz file"):
        read_arrays(path)


def test_pictures_of_a_gallery_that_overlap(tmp_path: Path) -> None:
    """Each again the whole content: of a megabyte as many gigabytes as it has thousands of ends."""
    content = {"indices": np.arange(4), "matrices": np.zeros((4, 2, 3)), "size": np.array(9)}
    for ends in ([50, 0, 99, 99], [50, 60, 70, 98], [-5, 3, 4, 99]):
        np.savez(tmp_path / "bad.npz", **content, jpeg=np.zeros(99, np.uint8), ends=ends)
        with pytest.raises(DataError, match=r"bad\.npz: .*do not lie one after the other"):
            load_gallery(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    "header", [b"[" * 99_999, b'{"shape": [4294967296, 4294967296, 3]}', b'{"shape": [true, 1, 3]}']
)
def test_a_region_with_an_invalid_header(
    header: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photograph = tmp_path / "a.png"
    assert cv2.imwrite(str(photograph), np.zeros((9, 9, 3), np.uint8))
    face = Face("a", np.zeros((5, 2), np.float32), path=photograph)
    cache = CropCache(tmp_path / "cache", {"size": 9})
    cache.save(face, Region(np.zeros((9, 9, 3), np.uint8), np.eye(3)[:2], np.zeros(4)))
    whole = MAGIC + len(header).to_bytes(4, "little") + header
    whole += zlib.crc32(whole).to_bytes(4, "little")
    cache._path(face).write_bytes(whole + bytes(-len(whole) % 64))
    assert cache.load(face) is None
    assert "damaged" in caplog.text


# ---- pictures and films ------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A black PNG, of a thousandth of its pixels' size."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [(b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    )


def test_a_picture_of_too_many_pixels(tmp_path: Path) -> None:
    """Refused before it is decoded, in a process that has loaded no OpenCV before."""
    (tmp_path / "bad.png").write_bytes(png(20_000, 14_000))
    code = (
        "import resource\n"
        "from ccdn.data import check_image, read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for read in (read_image, check_image):\n"
        "    try: read('bad.png')\n"
        "    except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = "bad.png: cannot decode the image: more pixels than OPENCV_IO_MAX_IMAGE_PIXELS, which is"
    first, second, small = found.stdout.splitlines()
    assert first == second
    assert first.startswith(f"{said} {MOST_PIXELS} unless set")
    assert small == "True"


def film(path: Path, size: tuple[int, int] = (64, 48)) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    for _ in range(3):
        writer.write(np.zeros((size[1], size[0], 3), np.uint8))
    writer.release()


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "text " * 99,
    ],
)
def test_a_film_that_is_a_list_of_films(text: str, tmp_path: Path) -> None:
    film(tmp_path / "secret.mp4")
    Stream(Source(tmp_path / "secret.mp4")).close()
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(DataError, match=r"list\.mp4: expected a video that OpenCV can read \(MP4"):
        Stream(Source(tmp_path / "list.mp4"))


def test_what_a_film_is(tmp_path: Path) -> None:
    packets = b"G" + bytes(187) + b"G" + bytes(99)
    assert is_film(packets)
    assert is_film(bytes(4) + packets[:188] + bytes(4) + packets[188:])
    assert not is_film(b"G" + bytes(199))
    assert not is_film(b"RIFF1234WAVE" + bytes(199))
    for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".mov", "mp4v")):
        path = tmp_path / f"film{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (64, 48))
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
        assert is_film(path.read_bytes()[:256]), suffix


def test_a_film_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "film.mp4")
    monkeypatch.setattr("ccdn.inference.sources.MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(
        DataError, match=r"film\.mp4: found a film of 64 x 48 pixels, expected 3071"
    ):
        Stream(Source(tmp_path / "film.mp4"))


def test_an_error_is_one_line_whatever_a_picture_is_called() -> None:
    points = np.zeros((5, 2), np.float32)
    face = Face("a\nb", points, path=Path("a\nb.png"), source="x.json, annotation 1")
    assert face.where == r"'a\nb.png' (x.json, annotation 1)"
