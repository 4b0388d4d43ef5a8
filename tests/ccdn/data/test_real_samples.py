"""Real photographs with real annotations, if they are available."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccdn.cli.data import main
from ccdn.data import crop_matrix, face_box, open_faces, transform_points

SAMPLES = {"300w": (2, 68), "aflw": (2, 19), "cofw": (2, 29), "wflw": (4, 98)}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_json_of_four_benchmarks(name: str, shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    faces = open_faces("coco", shared / "samples" / "mmpose_json" / name, "test")
    assert (len(faces), faces.points) == SAMPLES[name]
    too_small = "of 1 of 4 faces is too small, landmarks lie outside its crop: annotation 2"
    assert (too_small in caplog.text) == (name == "wflw")
    for index in range(len(faces)):
        face, image = faces.face(index), faces.image(index)
        low, high = face.landmarks.min(0), face.landmarks.max(0)
        assert (low > -2).all()
        assert (high < np.array(image.shape[1::-1]) + 2).all()
        matrix = crop_matrix(face_box(face, "provided", 0.25), 128)
        inside = transform_points(matrix, face.landmarks)
        assert inside.min() > -0.5
        assert inside.max() < 127.5
        assert (face.visible is not None) == (name == "cofw")


def test_the_too_small_rectangle_is_reported(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One face of WFLW has a rectangle that ends at the nose: without centre and scale, which its
    JSON has too, its crop cuts the chin.
    """
    source = shared / "samples" / "mmpose_json" / "wflw"
    content = json.loads((source / "test_wflw.json").read_text())
    for annotation in content["annotations"]:
        del annotation["center"], annotation["scale"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(source)
    assert main(["inspect", "coco", str(tmp_path), "--split", "test"]) == 0
    printed = capsys.readouterr().out
    assert "1 crops (box provided, margin 0.25) cut landmarks off" in printed
    assert "7_Cheering_Cheering_7_16.jpg (test.json, annotation 2)" in printed


def test_cofw68_annotations(shared: Path) -> None:
    with pytest.warns(UserWarning, match="found 2 faces, expected 507"):
        faces = open_faces("cofw68", shared / "samples" / "cofw68", "test")
    with np.load(shared / "golden" / "spiga_cofw68.npz") as golden:
        truth = golden["gt"][:2]  # the golden file keeps the 1-based numbers
    for index in range(2):
        face = faces.face(index)
        np.testing.assert_allclose(face.landmarks + 1, truth[index], atol=1e-3)
        assert face.visible is not None
        assert 0 < face.visible.sum() < 68
    with pytest.raises(ValueError, match=r"the images are in COFW_test_color.mat"):
        faces.image(0)


def test_counts_of_300w_are_reported(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "auto", str(shared / "300w"), "--box", "gt"]) == 0
    printed = capsys.readouterr()
    assert "read as 300w" in printed.out
    assert "300W train: 2012 faces of 68 points, EXPECTED 3148" in printed.out
    assert "870  helen/trainset of 2000" in printed.out
    assert "300W common: 330 faces of 68 points, EXPECTED 554" in printed.out
    assert printed.out.count("0 crops (box gt, margin 0.25) cut landmarks off") == 3
    assert "challenging" in printed.err
