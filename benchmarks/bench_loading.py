"""Training crops a second from photographs like 300W's: decoded each time, and from the caches.

One process without workers shows the loading rate of one core. The photographs are generated faces
without noise, a megapixel each, written as JPEG. Prints its own table, because the baselines are
ways to load, not formulations of an operator.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timing import interleaved

from ccdn.data import CropDataset, read_folder, write_pts
from ccdn.data.images import cv2
from ccdn.synthetic_faces import SyntheticFaces

FACES = 24
WIDTH, HEIGHT = 1280, 960  # of a photograph; the face fills about a third of its height
SEED = 7


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    made = SyntheticFaces(FACES, seed=SEED, size=512)
    random = np.random.default_rng(SEED)
    for index in range(FACES):
        grain = random.normal(128, 30, (HEIGHT // 4, WIDTH // 4, 3)).clip(0, 255).astype(np.uint8)
        photograph = cv2.resize(grain, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        left, top = (int(random.integers(side - 512)) for side in (WIDTH, HEIGHT))
        photograph[top : top + 512, left : left + 512] = made.image(index)
        path = folder / f"{index:03d}.jpg"
        assert cv2.imwrite(str(path), photograph, [cv2.IMWRITE_JPEG_QUALITY, 92])
        write_pts(path.with_suffix(".pts"), made.face(index).landmarks + np.array([left, top]))
    return folder


def test_loading(benchmark: Any, photographs: Path, tmp_path: Path, capsys: Any) -> None:
    faces = read_folder(photographs)

    def crops(**options: Any) -> CropDataset:
        return CropDataset(faces, 128, "gt", augmentation="newell", seed=SEED, **options)

    def again(**options: Any) -> Callable[[], Any]:
        """An epoch of a run that has only begun: nothing is in memory yet."""
        return lambda: crops(**options).batch(range(FACES))

    disk = tmp_path / "kept"
    crops(cache_dir=disk).preload()
    in_memory = crops()
    in_memory.preload()
    epochs: dict[str, Callable[[], Any]] = {
        "decoded each time": again(cache=False),
        "first epoch, cache_dir": again(cache_dir=disk),
        "in memory": lambda: in_memory.batch(range(FACES)),
    }
    images = [epoch()["image"] for epoch in epochs.values()]
    assert all((one == images[0]).all() for one in images)  # or none has a speed
    times = interleaved(epochs, seconds=20, min_rounds=3)
    benchmark.pedantic(epochs["first epoch, cache_dir"], rounds=3)
    kept = sum(path.stat().st_size for path in disk.iterdir()) / FACES
    slowest = times["decoded each time"].best
    with capsys.disabled():
        print(f"\ncrops of 128 pixels from {WIDTH} x {HEIGHT} JPEGs, one process, no workers")
        print(f"{'':24}{'images/s':>10}{'x decoding':>12}  rounds")
        for name, timing in times.items():
            rate, ratio = FACES / timing.best, slowest / timing.best
            print(f"{name:24}{rate:10.0f}{ratio:12.1f}{timing.rounds:8}")
        print(f"on disk: {kept / 1e3:.0f} kB a face")
    rates = {name: FACES / timing.best for name, timing in times.items()}
    benchmark.extra_info.update(images_per_second=rates, bytes_per_face=kept)
