"""What hides a generated face: the head itself, a mask, a scarf, or an object in front of it."""

from __future__ import annotations

import numpy as np
import pytest

from ccdn.data.occlusion import KINDS, Placement, paint_occluder
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.synthetic_faces.anatomy import Anatomy
from ccdn.synthetic_faces.camera import View, look_at
from ccdn.synthetic_faces.cloth import wear
from ccdn.synthetic_faces.generator import _hides
from ccdn.synthetic_faces.head import Head
from ccdn.synthetic_faces.look import sample_light, sample_look
from ccdn.synthetic_faces.occluders import SHARES
from ccdn.synthetic_faces.parameters import (
    Pose,
    RandomStream,
    look_stream,
    sample_expression,
    sample_identity,
    sample_pose,
    shape_stream,
)
from ccdn.synthetic_faces.raster import rasterise
from ccdn.synthetic_faces.render import Layer

SIZE = 160
EYES, MOUTH, CHIN = range(60, 76), range(76, 96), 16


def view_of(index: int, yaw: float = 0.0, largest: float = 0.0) -> View:
    draw = shape_stream(5, index)
    head = Head(Anatomy(sample_identity(draw), sample_expression(draw)))
    pose = sample_pose(draw, (largest, largest / 2, largest / 3))
    return look_at(head, Pose(**{**pose.__dict__, "yaw": yaw + pose.yaw}), SIZE)


def bare(view: View) -> Layer:
    """The head alone, without hair: only its depth is asked for."""
    seen = view.camera.turned(view.head.mesh)
    raster = rasterise(seen, view.camera, SIZE, (5.6, 4.0))
    depth = np.full((SIZE, SIZE), -np.inf, np.float32)
    depth[raster.window] = raster.depth
    shape = raster.depth.shape
    nothing = np.zeros((SIZE, SIZE), bool)
    colour = np.zeros((*shape, 3), np.uint8)
    return Layer(raster.window, colour, np.zeros(shape, np.float32), depth, nothing)


def rays_blocked(view: View, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Whether the head's mesh stands, by more than 0.1, before points (n, 2) at depths (n,)."""
    mesh = view.camera.project(view.head.mesh.astype(np.float64))
    corners = [mesh[:-1, :-1], mesh[1:, :-1], mesh[:-1, 1:], mesh[1:, 1:]]
    a, b, c, d = (corner.reshape(-1, 3) for corner in corners)
    blocked = np.zeros(len(pixels), bool)
    for first, second, third in ((a, b, c), (b, d, c)):
        # Barycentric in the picture; depth is near enough to linear over so small a triangle.
        u, v = second - first, third - first
        area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        whole = np.abs(area) > 1e-9  # not so where the mesh closes to a point
        first, u, v, area = first[whole], u[whole], v[whole], area[whole]
        for k, (point, z) in enumerate(zip(pixels, depth, strict=True)):
            p = point - first[:, :2]
            s = (p[:, 0] * v[:, 1] - p[:, 1] * v[:, 0]) / area
            t = (u[:, 0] * p[:, 1] - u[:, 1] * p[:, 0]) / area
            inside = (s >= 0) & (t >= 0) & (s + t <= 1)
            over = first[:, 2] + s * u[:, 2] + t * v[:, 2]
            blocked[k] |= bool((over[inside] > z + 0.10).any())
    return blocked


def test_what_the_head_hides_is_what_its_mesh_hides() -> None:
    """Ray by ray, wherever a pixel or two to any side do not change the answer."""
    found = {True: 0, False: 0}
    for index in range(9):
        view = view_of(index, yaw=(-50.0, 0.0, 50.0)[index % 3], largest=40.0)
        nothing = np.zeros((SIZE, SIZE), bool)
        _, behind, _, _ = _hides(view.pixels, bare(view).depth, nothing, nothing)
        around = [(0, 0), *((x, y) for x in (-2, 2) for y in (-2, 2))]
        truths = np.array(
            [rays_blocked(view, view.pixels[:, :2] + step, view.pixels[:, 2]) for step in around]
        )
        sure = truths.all(0) | ~truths.any(0)
        assert np.array_equal(behind[sure], truths[0][sure]), index
        for value in truths[0][sure]:
            found[bool(value)] += 1
    assert found[True] > 15
    assert found[False] > 300


@pytest.mark.parametrize("scarf", [False, True])
@pytest.mark.parametrize("yaw", [0.0, -40.0, 75.0])
def test_cloth_follows_the_head(scarf: bool, yaw: float) -> None:
    hidden_mouth = []
    for index in range(5):
        view = view_of(index, yaw)
        layer, draw = bare(view), look_stream(5, index)
        look = sample_look(draw)
        light = sample_light(draw, look.skin)
        picture = np.full((SIZE, SIZE, 3), 128, np.uint8)
        hidden = wear(picture, view, layer, look, light, draw, scarf)
        nothing = np.zeros((SIZE, SIZE), bool)
        inside, behind, covered, _ = _hides(view.pixels, layer.depth, hidden, nothing)
        seen = inside & ~behind
        hidden_mouth.append(covered[MOUTH][seen[MOUTH]].mean())
        assert not covered[EYES].any()
        assert covered[54] or covered[57] or scarf or hidden_mouth[-1] > 0.9  # worn over the nose
        # It is lit: not one colour, and painted where it hides.
        changed = (picture != 128).any(axis=2)
        assert changed[hidden].mean() > 0.98
        assert picture[hidden].std(axis=0).max() > 2
        # It lies mostly on the head.
        on_head = np.isfinite(layer.depth)
        assert (hidden & on_head).sum() > (0.35 if scarf else 0.6) * hidden.sum()
    assert np.mean(hidden_mouth) > 0.9


@pytest.mark.parametrize("kind", list(KINDS))
def test_things_hide_what_they_change(kind: str) -> None:
    for seed in range(3):
        before = np.random.default_rng(9).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        picture = before.copy()
        place = Placement(np.array([60.0, 70.0]), np.array([0.6, 0.8]), 30.0)
        mask = paint_occluder(picture, kind, place, (200, 150, 120), np.random.default_rng(seed))
        changed = (picture != before).any(axis=2)
        assert not changed[mask == 0].any()
        assert changed[mask == 255].mean() > 0.98
        assert 0.01 < (mask > 127).mean() < 0.7


@pytest.mark.parametrize("kind", list(KINDS))
def test_things_outside_the_picture_change_nothing(kind: str) -> None:
    picture = np.full((64, 64, 3), 7, np.uint8)
    place = Placement(np.array([-4000.0, 30.0]), np.array([-1.0, 0.0]), 20.0)
    mask = paint_occluder(picture, kind, place, (1, 2, 3), np.random.default_rng(0))
    if kind != "bar":  # which crosses any picture
        assert not mask.any()
        assert (picture == 7).all()


@pytest.mark.parametrize("kind", list(SHARES))
def test_what_comes_before_a_face_hides_landmarks(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = RandomStream.choose

    def chosen(self: RandomStream, weights: dict[str, float]) -> str:
        return kind if weights is SHARES else choose(self, weights)

    monkeypatch.setattr(RandomStream, "choose", chosen)
    faces, free = (
        SyntheticFaces(6, seed=2, points=98, size=64, pose=(20, 10, 10), occlusion=share)
        for share in (1.0, 0.0)
    )
    hidden = [(free.visible(i) & ~faces.visible(i)).mean() for i in range(6)]
    assert max(hidden) > (0.2 if kind in ("mask", "scarf") else 0.02)
    attributes = [faces.attributes(i)["occlusion"] for i in range(6)]
    assert attributes[int(np.argmax(hidden))] or max(hidden) < 0.06


def test_all_things_are_drawn() -> None:
    assert set(SHARES) == {"mask", "scarf", *KINDS}
    assert min(SHARES.values()) > 0
