"""Face activation maps: their means are the landmarks, and the command draws them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ccdn.checkpoint.state import Checkpoint
from ccdn.checkpoint.torch_file import save_checkpoint
from ccdn.cli import activations
from ccdn.config import load_config
from ccdn.inference.activation_maps import activation_maps, draw_map, face_maps
from ccdn.models import CCDN, build_model
from ccdn.synthetic_faces import SyntheticFaces

VARIANTS = {
    "ccdn": ([], 2),
    "fcdn": (["model.orders=1"], 2),
    "baseline": (["model.ctm=false"], 1),
    "integral": (["model.head=integral"], 2),
    "integral baseline": (["model.head=integral", "model.ctm=false"], 1),
}


def network(small: list[str], *overrides: str) -> CCDN:
    torch.manual_seed(0)
    model = build_model(load_config("tiny", [*small, *overrides]).model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.double().eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_means_of_the_maps_are_the_landmarks(variant: str, small: list[str]) -> None:
    overrides, excitations = VARIANTS[variant]
    model = network(small, *overrides)
    crops = torch.rand(3, 3, 32, 32).double()
    maps = activation_maps(model, crops)
    side = 2 if variant.endswith("baseline") else 4
    assert maps.shape == (3, excitations, 68, 2, side, side)
    bias = torch.full((68, 2), 0.5).double()  # of the integral head: its prior's mean
    if model.head_integral is None:
        bias = model.head.bias.view(68, 2)
    else:  # maps by which softmaxes differ much from the prior
        assert (model.head_integral(model.maps(crops).excited) - 0.5).abs().max() > 0.1
    expected = model(crops).landmarks
    torch.testing.assert_close(maps.mean((4, 5)).sum(1) + bias, expected)


def test_face_maps_by_hand() -> None:
    maps = torch.rand(2, 3, 4, 2, 5, 6).double() - 0.5
    found = face_maps(maps)
    expected = torch.zeros(2, 3, 5, 6).double()
    for landmark in range(4):
        for axis in range(2):
            one = maps[:, :, landmark, axis]
            expected += (one - one.mean((2, 3), keepdim=True)).abs() / 8
    torch.testing.assert_close(found, expected)


def test_the_largest_value_is_red_and_the_smallest_blue() -> None:
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    drawn = draw_map(np.full((64, 64, 3), 128, np.uint8), heat).astype(int)
    assert drawn.shape == (64, 64, 3)
    assert drawn[2, 2, 0] > drawn[2, 2, 2] + 50
    assert drawn[60, 60, 2] > drawn[60, 60, 0] + 50


@pytest.fixture
def photo(face_folder: Path) -> Path:
    return face_folder / "face00.png"


@pytest.fixture
def weights(small: list[str], tmp_path: Path) -> Path:
    config = load_config("tiny", small)
    model = network(small).float()
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint(config, model.state_dict(), torch.full((68, 2), 0.5)))
    return path


def test_the_command_draws_a_row_for_the_face(photo: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.png"
    arguments = [str(photo), "--weights", str(weights), "--out", str(out), "--side", "64"]
    assert activations.main([*arguments, "--box", "20,20,70,80"]) == 0
    picture = cv2.imread(str(out))
    # The crop, two excitations and their mean, each 64 wide, with gaps of 4 and a line of text.
    assert picture.shape == (64 + 18 + 2 * 4, 4 * (64 + 4) + 4, 3)
    cells = [picture[4:68, 4 + 68 * i : 68 + 68 * i] for i in range(4)]
    assert all(np.abs(a.astype(int) - cells[0]).mean() > 10 for a in cells[1:])


def test_what_is_wrong_is_one_line(
    photo: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.png"
    cv2.imwrite(str(plain), np.full((90, 90, 3), 128, np.uint8))
    cases = [
        ([str(plain), "--weights", str(weights)], 3, "no face detected; pass --box"),
        ([str(photo), "--weights", "gone.pt"], 2, "gone.pt: expected a checkpoint"),
        ([str(photo), "--weights", str(weights), "--box", "900,900,950,950"], 2, "overlaps"),
        ([str(tmp_path / "gone.png"), "--weights", str(weights)], 2, "gone.png"),
    ]
    for arguments, code, message in cases:
        assert activations.main(arguments) == code
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_without_weights_the_bundled_ones_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = SyntheticFaces(1, seed=3, pose=10, occlusion=0).image(0)
    cv2.imwrite(str(tmp_path / "photo.png"), picture[:, :, ::-1])
    out = tmp_path / "maps.png"
    assert activations.main([str(tmp_path / "photo.png"), "--out", str(out), "--side", "64"]) == 0
    assert "no --weights given; using the bundled model" in capsys.readouterr().err
    assert out.exists()
