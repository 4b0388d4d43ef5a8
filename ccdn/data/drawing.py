"""Landmarks on pictures, and sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ccdn.data.layouts import Layout
from ccdn.runtime.files import atomic_write

Image = np.ndarray[Any, np.dtype[Any]]
Color = tuple[int, int, int]

GREEN: Color = (64, 230, 90)
WHITE: Color = (255, 255, 255)
RED: Color = (240, 60, 60)
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


def draw_landmarks(
    image: Image,
    landmarks: Image,
    layout: Layout | None = None,
    color: Color = GREEN,
    size: float | None = None,
    dots: bool = True,
) -> Image:
    """Draw one face's landmarks, anti-aliased, into a copy of the picture.

    image: uint8 (H, W, 3) RGB; landmarks: (L, 2) pixels, 0-based. layout: its parts are joined by
    thin lines; None draws dots only. size: radius of a dot in pixels; None fits it to the face.
    dots: False draws lines only. Raises ValueError for another image or landmarks of another shape
    than the layout's.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 (H, W, 3), found {image.dtype} {image.shape}")
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.ndim != 2 or landmarks.shape[1] != 2:
        raise ValueError(f"landmarks must be (L, 2), found {landmarks.shape}")
    if layout is not None and len(landmarks) != layout.points:
        raise ValueError(f"{len(landmarks)} landmarks for a layout of {layout.points} points")
    canvas = np.ascontiguousarray(image).copy()
    _add_landmarks(canvas, landmarks, layout, color, size, dots)
    return canvas


def draw_box(image: Image, box: Image, color: Color = WHITE) -> Image:
    """Draw a box (x0, y0, x1, y1), in pixels, into a copy of the picture."""
    canvas = np.ascontiguousarray(image).copy()
    _add_box(canvas, box, color)
    return canvas


def draw_faces(
    image: Image, landmarks: Image, boxes: Image, layout: Layout, labels: Sequence[str] = ()
) -> Image:
    """Draw faces, landmarks (N, L, 2) and boxes (N, 4) in pixels, into one copy of the picture,
    uint8 (H, W, 3) RGB.

    labels: a short text at each box.
    """
    canvas = np.ascontiguousarray(image).copy()
    for points, box in zip(landmarks, boxes, strict=True):
        _add_box(canvas, box, WHITE)
        _add_landmarks(canvas, np.asarray(points, np.float64), layout, GREEN, None, True)
    for label, box in zip(labels, boxes, strict=bool(labels)):
        _add_label(canvas, label, box)
    return canvas


def _add_landmarks(
    canvas: Image,
    landmarks: Image,
    layout: Layout | None,
    color: Color,
    size: float | None,
    dots: bool,
) -> None:
    if size is None:
        extent = float(np.ptp(landmarks, axis=0).max()) if len(landmarks) else 0.0
        size = max(1.0, extent / 110)
    fixed = np.round(np.clip(landmarks, -1e5, 1e5) * 2**_SHIFT).astype(np.int32)
    if layout is not None:
        width = max(1, round(size * 0.7))
        for part in layout.parts:
            line = fixed[list(part)].reshape(-1, 1, 2)
            cv2.polylines(canvas, [line], False, color, width, cv2.LINE_AA, _SHIFT)
    if dots:
        radius = round(size * 2**_SHIFT)
        for x, y in fixed.tolist():
            cv2.circle(canvas, (x, y), radius, color, -1, cv2.LINE_AA, _SHIFT)


def _add_box(canvas: Image, box: Image, color: Color) -> None:
    x0, y0, x1, y1 = (round(float(value) * 2**_SHIFT) for value in box)
    width = max(1, round(max(canvas.shape[:2]) / 500))
    cv2.rectangle(canvas, (x0, y0), (x1, y1), color, width, cv2.LINE_AA, _SHIFT)


def _add_label(canvas: Image, label: str, box: Image) -> None:
    """A text above the left upper corner of a box, or in it at the picture's upper border."""
    size = max(0.4, float(box[3] - box[1]) / 300)
    thick = max(1, round(2 * size))
    (_, height), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
    left, bottom = round(float(box[0])), round(float(box[1])) - base
    if bottom < height:
        bottom = round(float(box[1])) + height + base
    for color, width in (((0, 0, 0), thick + 2), (WHITE, thick)):  # legible on any ground
        place, font = (left, bottom), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(canvas, label, place, font, size, color, width, cv2.LINE_AA)


def enlarge(image: Image, landmarks: Image, side: int) -> tuple[Image, Image]:
    """Resize a square crop to `side` pixels and move its landmarks (L, 2) with it."""
    factor = side / image.shape[0]
    how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, (side, side), interpolation=how), (landmarks + 0.5) * factor - 0.5


def contact_sheet(
    images: Sequence[Image], columns: int, captions: Sequence[str] = (), gap: int = 4
) -> Image:
    """Lay pictures (uint8, RGB) out in rows of `columns`, on a dark ground, each centred in its
    cell.

    captions: a line of text under each picture. Raises ValueError without pictures.
    """
    if not images or columns < 1:
        raise ValueError(f"expected pictures and columns, found {len(images)} and {columns}")
    band = 18 if captions else 0
    height = max(image.shape[0] for image in images) + band + gap
    width = max(image.shape[1] for image in images) + gap
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 24, np.uint8)
    for i, image in enumerate(images):
        top = gap + i // columns * height
        left = gap + i % columns * width
        h, w = image.shape[:2]
        y = top + (height - gap - band - h) // 2
        x = left + (width - gap - w) // 2
        sheet[y : y + h, x : x + w] = image
        if i < len(captions):
            place = (left + 3, top + height - gap - 5)
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(sheet, captions[i], place, font, 0.4, (225, 225, 225), 1, cv2.LINE_AA)
    return sheet


def stack_sheets(sheets: Sequence[Image]) -> Image:
    """Put sheets below each other, on the same dark ground. Raises ValueError without sheets."""
    if not sheets:
        raise ValueError("expected sheets, found none")
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [
        np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=24) for s in sheets
    ]
    return np.concatenate(padded)


def write_picture(path: Path, image: Image, jpeg_quality: int = 95) -> None:
    """Write an RGB picture in the format of the path's suffix. Raises OSError, naming the file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if path.suffix == ".jpg" else []
    try:
        ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error as error:
        raise OSError(f"{path}: OpenCV cannot write {path.suffix or 'no suffix'!r}") from error
    if not ok:
        raise OSError(f"{path}: the picture could not be encoded")
    with atomic_write(path) as file:
        file.write(data.tobytes())
