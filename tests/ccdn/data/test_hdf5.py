"""The reader of MATLAB's v7.3 files: the values that h5py gives, and a refusal of everything that
would read another file, start a program or ask for too much.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from ccdn.data import DataError, open_faces
from ccdn.data.formats import hdf5
from ccdn.data.formats.hdf5 import Hdf5File
from ccdn.data.formats.mat import open_mat73
from ccdn.synthetic_faces import SyntheticFaces, write_protocol

MATLAB = Path(scipy.io.matlab.__file__).parent / "tests" / "data" / "testhdf5_7.4_GLNX86.mat"
NUMBERS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("u1", (3, 70, 81), {"chunks": (1, 32, 32), "compression": 4}),
    ("f8", (87, 9), {"shuffle": True, "compression": 1}),
    ("i4", (5,), {}),
    (">f4", (4, 3), {}),
    ("i8", (2, 3, 2, 2), {"chunks": (1, 2, 1, 2)}),
    ("u2", (10, 10), {"chunks": (3, 3), "compression": 9, "shuffle": True}),
    ("f8", (0, 5), {}),
    ("i2", (), {}),
    ("u1", (100, 100), {"chunks": (5, 5), "compression": 1}),  # a B-tree of several levels
]


def read(path: Path, name: str = "a") -> np.ndarray:
    with open_mat73(path, name) as (_, (array,)):
        return array.read()


def test_values_are_those_of_h5py(tmp_path: Path) -> None:
    path, random = tmp_path / "a.mat", np.random.default_rng(0)
    with h5py.File(path, "w", userblock_size=1024) as file:
        for i, (dtype, shape, how) in enumerate(NUMBERS):
            stored = file.create_dataset(
                f"v{i}", data=(100 * random.random(shape)).astype(dtype), **how
            )
            for k in range(9):  # a header of several blocks
                stored.attrs[f"attribute {k}"] = np.arange(100)
        for i in range(60):  # a group of several levels
            file[f"w{i}"] = np.arange(i)
        within = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        within.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple((3,)), h5py.h5t.NATIVE_DOUBLE
        h5py.h5d.create(file.id, b"within", kind, space, within).write(
            h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3.0)
        )
    with h5py.File(path) as file:
        for name in file:
            expected, found = file[name][()], read(path, name)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_a_chunk_without_some_of_its_filters(tmp_path: Path) -> None:
    """A writer may leave out a filter that did not pay; the chunk's mask has its bit."""
    path, values = tmp_path / "a.mat", np.arange(300, dtype="<u2").reshape(3, 100)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset(
            "a", (3, 100), "<u2", chunks=(1, 100), shuffle=True, compression=1
        )
        plain = [row.tobytes() for row in values]
        shuffled = values[1].view("u1").reshape(-1, 2).T.tobytes()
        stored.id.write_direct_chunk((0, 0), zlib.compress(plain[0]), filter_mask=0b01)
        stored.id.write_direct_chunk((1, 0), shuffled, filter_mask=0b10)
        stored.id.write_direct_chunk((2, 0), plain[2], filter_mask=0b11)
    with h5py.File(path) as file:
        assert np.array_equal(file["a"][()], values)
    assert np.array_equal(read(path), values)


@pytest.mark.skipif(not MATLAB.is_file(), reason="this SciPy came without the files of its tests")
def test_a_file_that_matlab_wrote() -> None:
    with h5py.File(MATLAB) as file:
        expected = file["testdouble"][()]
    assert np.array_equal(read(MATLAB, "testdouble"), expected)


# ---- untrusted COFW files ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cofw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hdf5") / "cofw"
    write_protocol("cofw", made, *(SyntheticFaces(3, s, points=29, size=48) for s in (0, 1)))
    return made / "COFW_train_color.mat"


def _external(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", (3, 48, 48), "u1", external=[(str(secret), 0, 3 * 48 * 48)])


def _virtual(file: Any, secret: Path) -> Any:
    layout = h5py.VirtualLayout((3, 48, 48), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (3, 48, 48))
    return file.create_virtual_dataset("x", layout)


def _filter(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", data=np.zeros((3, 48, 48), "u1"), compression="lzf")


def _named_type(file: Any, secret: Path) -> Any:
    file["type"] = np.dtype("u1")
    return file.create_dataset("x", (3, 48, 48), file["type"])


def _group(file: Any, secret: Path) -> Any:
    return file["#refs#"]


def _structs(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", data=np.zeros(3, [("a", "u1"), ("b", "f8")]))


def _text(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", data="text")


def _huge(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", (3, 10**6, 10**6), "u1", chunks=(1, 1000, 1000))


def _huge_chunks(file: Any, secret: Path) -> Any:
    how = {"chunks": (1, 1, 2**30), "maxshape": (3, 48, None)}
    return file.create_dataset("x", (3, 48, 48), "u1", **how)


def _many_chunks(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", (3, 480, 480), "u1", chunks=(1, 1, 1))


def _unwritten(file: Any, secret: Path) -> Any:
    return file.create_dataset("x", (3, 48, 48), "u1")


def _some_chunks(file: Any, secret: Path) -> Any:
    stored = file.create_dataset("x", (3, 48, 48), "u1", chunks=(1, 48, 48))
    stored[:2] = 1
    return stored


def _chunk(content: bytes) -> Callable[[Any, Path], Any]:
    def make(file: Any, secret: Path) -> Any:
        stored = file.create_dataset("x", (3, 48, 48), "u1", chunks=(3, 48, 48), compression=1)
        stored.id.write_direct_chunk((0, 0, 0), content)
        return stored

    return make


STRANGE: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "external storage": (_external, r"values are in other files \(external storage\)"),
    "virtual array": (_virtual, r"values are in other files \(a virtual array\)"),
    "filter": (_filter, "found chunks that need the filter 32000, expected zlib or shuffle"),
    "named type": (_named_type, r"type is that of another \(a named type\)"),
    "group": (_group, "found no array at the address"),
    "structs": (_structs, "found values of class 6 and 9 bytes, expected integers, floats or"),
    "text": (_text, "found values of class 9"),
    "huge": (_huge, "found an array of 3000000000000 bytes, expected 268435456 at most"),
    "huge chunks": (_huge_chunks, "found 144 chunks of 1073741824 bytes, more than 268435456 in"),
    "many chunks": (_many_chunks, "found 691200 chunks of 1 bytes"),
    "unwritten": (_unwritten, "found an array that was never written"),
    "some chunks": (_some_chunks, r"found no chunk at \(2, 0, 0\), 1 are missing"),
    "bomb": (_chunk(zlib.compress(bytes(1 << 26))), "truncated, or larger than it should be"),
    "short chunk": (_chunk(zlib.compress(bytes(99))), "found a chunk of 99 bytes, expected 6912"),
    "cut chunk": (_chunk(zlib.compress(bytes(6912))[:-6]), "truncated, or larger than"),
    "no chunk": (_chunk(b"none at all"), "a chunk is damaged"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_picture_that_is_not_in_the_file(case: str, cofw: Path, tmp_path: Path) -> None:
    make, message = STRANGE[case]
    path, secret = tmp_path / cofw.name, tmp_path / "secret.txt"
    secret.write_bytes(b"SECRET" * 4096)
    path.write_bytes(cofw.read_bytes())
    with h5py.File(path, "r+") as file:
        file["IsTr"][0, 1] = make(file, secret).ref
    with pytest.warns(UserWarning, match="expected 1345"):
        faces = open_faces("cofw", tmp_path, "train")
    with pytest.raises(
        DataError, match=rf"color\.mat: not a whole MATLAB v7\.3 file: .*{message}"
    ) as caught:
        faces.image(1)
    assert "\n" not in str(caught.value)
    assert faces.image(2).shape == (48, 48, 3)
    with pytest.warns(UserWarning, match="expected 1345"):
        assert open_faces("cofw", tmp_path, "train", skip_bad=True).skipped.count == 1


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (h5py.SoftLink("/bboxesTr"), "found a soft link phisTr, expected an array"),
        (h5py.SoftLink("/nowhere"), "found a soft link phisTr, expected an array"),
        (h5py.ExternalLink("other.h5", "phisTr"), "a group of a later format.* it may hold links"),
    ],
)
def test_a_variable_that_is_a_link(link: Any, message: str, cofw: Path, tmp_path: Path) -> None:
    path = tmp_path / cofw.name
    path.write_bytes(cofw.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["phisTr"]
        file["phisTr"] = link
    with pytest.raises(DataError, match=rf"COFW_train_color\.mat: .*{message}"):
        open_faces("cofw", tmp_path, "train")


def test_cells_that_are_numbers(cofw: Path, tmp_path: Path) -> None:
    path = tmp_path / cofw.name
    path.write_bytes(cofw.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["IsTr"]
        file["IsTr"] = np.zeros((1, 3))
    with (
        pytest.warns(UserWarning, match="expected 1345"),
        pytest.raises(DataError, match=r"color\.mat: .*IsTr has no cell 1"),
    ):
        open_faces("cofw", tmp_path, "train").image(0)


@pytest.mark.parametrize("version", ["v108", "latest"])
def test_a_later_format_is_named(version: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", libver=version) as file:
        file["a"] = np.arange(3)
    with pytest.raises(DataError, match=r"a\.mat: .*superblock of version \d, of a later format"):
        read(path)


# ---- structures that lead nowhere, by hand -----------------------------------------------------


DATA = np.arange(128.0).reshape(16, 8)


def small(tmp_path: Path, **how: Any) -> tuple[Path, bytearray]:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=DATA, **how)
    return path, bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("mark", "place", "value", "message"),
    [
        (
            b"TREE",
            5,
            b"\xff\xff\0",
            "found a B-tree that leads back to itself|truncated|no node of",
        ),
        (b"TREE", 24 + 8, struct.pack("<Q", 2**63), "truncated: the symbols of a group of 8 bytes"),
        (b"TREE", 6, b"\xff\xff", "truncated: a B-tree's entries"),
        (b"HEAP", 0, b"heap", "found no names of a group"),
        (b"HEAP", 8, struct.pack("<Q", 2**62), "truncated: the names of a group"),
        (b"SNOD", 0, b"snod", "found no symbols of a group"),
        (b"SNOD", 8 + 8, struct.pack("<Q", 96), "found no array at the address"),
        (b"\x89HDF", 64, struct.pack("<Q", 1 << 40), "truncated: an object's header"),
        (b"\x89HDF", 13, b"\4", "found a superblock of version 0"),
    ],
)
def test_structures_that_lead_nowhere(
    mark: bytes, place: int, value: bytes, message: str, tmp_path: Path
) -> None:
    path, content = small(tmp_path)
    start = content.index(mark) + place
    content[start : start + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.mat: not a whole MATLAB v7\.3 file: .*({message})"):
        read(path)


def test_a_tree_that_leads_back_to_itself(tmp_path: Path) -> None:
    path, content = small(tmp_path, chunks=(1, 1))
    trees = [
        i for i in range(len(content)) if content[i : i + 4] == b"TREE" and content[i + 4] == 1
    ]
    top = next(i for i in trees if content[i + 5] > 0)
    key = 8 + 8 * 3
    struct.pack_into("<Q", content, top + 24 + key, top)  # its first child is itself
    path.write_bytes(content)
    with pytest.raises(DataError, match="a B-tree that leads back to itself"):
        read(path)


def test_a_header_that_leads_back_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
        for k in range(9):
            file["a"].attrs[f"attribute {k}"] = np.arange(100)
    content = bytearray(path.read_bytes())
    with path.open("rb") as raw:
        address = Hdf5File(raw)
        assert address.array("a") is not None
    blocks = struct.pack("<HHB3x", hdf5._CONTINUED, 16, 0)
    place = content.index(blocks) + len(blocks)
    # The second block begins with the message that leads to it.
    target, size = struct.unpack_from("<QQ", content, place)
    content[target : target + 24] = blocks + struct.pack("<QQ", target, size)
    path.write_bytes(content)
    with pytest.raises(DataError, match="an object's header that leads back to itself"):
        read(path)


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    path, content = small(tmp_path)
    said = []
    for size in range(0, len(content), 40):
        path.write_bytes(content[:size])
        try:
            assert np.array_equal(read(path), DATA)
        except DataError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(line.startswith(f"{path}: ") for line in said)
