"""The benchmarks' official formats: what the generator writes, the readers give back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ccdn.cli.data import main
from ccdn.config import DataConfig, resolve_data
from ccdn.data import CropDataset, FaceSet, detect_kind, layout, open_faces, subset_masks
from ccdn.data.readers.wflw import ATTRIBUTES
from ccdn.synthetic_faces import PROTOCOLS, SyntheticFaces, write_protocol

TRAIN, TEST = 12, 11


@pytest.fixture(autouse=True)
def no_size_warnings() -> Iterator[None]:
    """Every split here is smaller than the official one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not the official one")
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, SyntheticFaces]]:
    """Each protocol's folder and its test faces."""
    made = {}
    for protocol, (points, _) in PROTOCOLS.items():
        root = tmp_path_factory.mktemp("data") / protocol
        train, test = (
            SyntheticFaces(count, seed, points=points, size=64, pose=(80, 30, 30), occlusion=0.5)
            for count, seed in ((TRAIN, 0), (TEST, 3))
        )
        assert write_protocol(protocol, root, train, test) == TRAIN + TEST
        made[protocol] = root, test
    return made


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_round_trip(
    protocol: str, written: dict[str, tuple[Path, SyntheticFaces]], tmp_path: Path
) -> None:
    root, source = written[protocol]
    assert detect_kind(root) == protocol
    assert resolve_data(DataConfig(root=str(root))).kind == protocol
    found = open_faces(protocol, root, "test")
    assert len(open_faces(protocol, root, "train")) == TRAIN
    assert isinstance(found, FaceSet)
    assert len({found.face(i).name for i in range(TEST)}) == len(found) == TEST
    for i, k in enumerate(order_of(found, protocol, root)):
        face, truth = found.face(k), source.face(i)
        image, drawn = found.image(k), source.image(i).astype(int)
        shift = 64 if image.shape[1] == 128 and face.name.endswith("#2") else 0
        np.testing.assert_allclose(face.landmarks - [shift, 0], truth.landmarks, atol=1e-4)
        assert face.box is not None
        np.testing.assert_allclose(face.box, moved_box(protocol, truth.box, shift), atol=1e-4)
        part = image[:, shift : shift + 64].astype(int)
        if protocol == "cofw" and i % 10 == 9:
            drawn = (drawn @ [[0.299], [0.587], [0.114]]).repeat(3, axis=2)  # some are grey
            assert np.abs(part - drawn).max() <= 1
        elif protocol == "cofw":
            assert np.array_equal(part, drawn)
        else:
            assert np.abs(part - drawn).mean() < 8  # JPEG
        if protocol in ("cofw", "aflw"):
            assert face.visible is not None
            assert np.array_equal(face.visible, source.visible(i))
        else:
            assert face.visible is None
        if protocol == "wflw":
            assert dict(face.attributes) == source.attributes(i)


def order_of(found: FaceSet, protocol: str, root: Path) -> list[int]:
    """Where each face of the source is among those read: 300W is read by folder and name."""
    if protocol != "300w":
        return list(range(len(found)))
    numbers = [int(found.face(k).name[-5:]) for k in range(len(found))]
    return [numbers.index(i) for i in range(len(found))]


def moved_box(protocol: str, box: np.ndarray | None, shift: int) -> np.ndarray:
    assert box is not None
    moved = box + np.array([shift, 0, shift, 0], np.float32)
    if protocol == "cofw":
        moved[:2] = moved[:2].clip(0)
    return moved


def test_subsets_of_wflw(written: dict[str, tuple[Path, SyntheticFaces]]) -> None:
    root, source = written["wflw"]
    expected = {name: [i for i in range(TEST) if source.attributes(i)[name]] for name in ATTRIBUTES}
    assert all(expected.values())  # or the test shows nothing
    masks = subset_masks(open_faces("wflw", root, "test"))
    for name, indices in expected.items():
        assert np.flatnonzero(masks[name]).tolist() == indices
        assert len(open_faces("wflw", root, name)) == len(indices)


def test_frontal_faces_of_aflw(written: dict[str, tuple[Path, SyntheticFaces]]) -> None:
    root, source = written["aflw"]
    expected = [source.visible(i).all() for i in range(TEST)]
    assert 0 < sum(expected) < TEST
    faces = open_faces("aflw", root, "test")
    assert subset_masks(faces)["frontal"].tolist() == expected
    assert len(open_faces("aflw", root, "frontal")) == sum(expected)


def test_visibility_follows_the_mirror(written: dict[str, tuple[Path, SyntheticFaces]]) -> None:
    faces = open_faces("cofw", written["cofw"][0], "test")
    crops = CropDataset(faces, size=32, augmentation="newell")
    flip = list(layout(29).flip or ())
    mirrored = 0
    for i in range(TEST):
        visible, item = faces.face(i).visible, crops[i]
        assert visible is not None
        flipped = bool(np.linalg.det(item["matrix"][:, :2].numpy()) < 0)
        mirrored += flipped
        assert np.array_equal(item["visible"].numpy(), visible[flip] if flipped else visible)
    assert 0 < mirrored < TEST


def test_sizes_are_compared_with_the_official_ones(
    written: dict[str, tuple[Path, SyntheticFaces]],
) -> None:
    for protocol, size in (("wflw", 7500), ("cofw", 1345), ("aflw", 20000)):
        with pytest.warns(UserWarning, match=f"found {TRAIN} faces, expected {size}"):
            open_faces(protocol, written[protocol][0], "train")


def test_inspect_counts_every_split(
    written: dict[str, tuple[Path, SyntheticFaces]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["inspect", "auto", str(written["wflw"][0])]) == 0
    printed = capsys.readouterr().out
    assert "read as wflw" in printed
    assert f"WFLW train: {TRAIN} faces of 98 points, EXPECTED 7500" in printed
    assert "WFLW blur: " in printed
    out = tmp_path / "sheets"
    code = main(
        ["inspect", "aflw", str(written["aflw"][0]), "--split", "frontal", "--out", str(out)]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert "all 19 points visible; 1165 in the paper" in printed
    assert "0 crops (box provided, margin 0.25) cut landmarks off" in printed
    assert sorted(path.name for path in out.iterdir()) == ["frontal-newell.png", "frontal-none.png"]


def test_synthesize_writes_what_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "faces"
    command = ["synthesize", "--protocol", "aflw", "--train", "3", "--test", "2", "--size", "48"]
    assert main([*command, "--out", str(out)]) == 0
    about = json.loads((out / "synthetic.json").read_text())
    assert (about["train"]["seed"], about["test"]["seed"]) == (0, 1)
    assert len(open_faces("aflw", out, "train")) == 3
    assert main([*command, "--out", str(out)]) == 2
    assert "is not empty, expected a new folder" in capsys.readouterr().err
