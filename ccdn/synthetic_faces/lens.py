"""What a camera does to a picture: exposure, blur, few pixels, noise, compression."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from ccdn.synthetic_faces.parameters import RandomStream


def photograph(picture: np.ndarray, draw: RandomStream) -> tuple[np.ndarray, bool]:
    """Degrade a clean picture (H, W, 3) uint8 as cameras and files do. Also returns whether a
    person would call it blurred.
    """
    height, width = picture.shape[:2]
    # Exposure, contrast and tint in one table per channel.
    levels = np.arange(256, dtype=np.float32) / 255
    gamma = float(np.exp(draw.normal(-0.05, 0.2)))
    contrast, shift = draw.normal(1.15, 0.2), draw.normal(0.0, 0.05)
    curve = (levels**gamma - 0.5) * contrast + 0.5 + shift
    tint = np.array([1 + draw.normal(0, 0.06) for _ in range(3)])
    table = np.clip(curve[:, None] * tint * 255, 0, 255).astype(np.uint8)
    picture = cv2.LUT(picture, table[None])
    if draw.chance(0.08):
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    fate = draw.choose({"sharp": 0.45, "soft": 0.25, "motion": 0.08, "small": 0.22})
    blurred = fate == "motion"
    if fate == "soft":
        deviation = draw.uniform(0.4, 1.3) * width / 160
        blurred = deviation > 0.9 * width / 160
        picture = cv2.GaussianBlur(picture, (0, 0), deviation)
    elif fate == "motion":
        length = max(3, round(draw.uniform(2, 6) * width / 160)) | 1
        kernel = np.zeros((length, length), np.float32)
        turn = draw.uniform(0, np.pi)
        reach = np.array([np.cos(turn), np.sin(turn)]) * (length // 2)
        middle = np.array([length // 2, length // 2])
        ends = [np.round(middle + sign * reach).astype(int).tolist() for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    elif fate == "small":
        share = draw.uniform(0.3, 0.8)
        blurred = share < 0.45
        low = (max(8, round(width * share)), max(8, round(height * share)))
        small = cv2.resize(picture, low, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if draw.chance(0.15):
        # Cameras sharpen: edges get a bright and a dark rim.
        soft = cv2.GaussianBlur(picture, (0, 0), 1.0 * width / 160)
        much = draw.uniform(0.3, 1.2)
        picture = cv2.addWeighted(picture, 1 + much, soft, -much, 0)
    if draw.chance(0.5):
        # Normal noise is dear: shift a fixed sheet of it, another way in every picture.
        sheet = _grain_sheet(height, width)
        row, column = draw.below(height), draw.below(width)
        strength = min(12.0, float(np.exp(draw.normal(0.8, 0.7))))
        grain = sheet[row : row + height, column : column + width] * np.float32(strength)
        picture = cv2.add(picture, cv2.merge((grain, grain, grain)), dtype=cv2.CV_8U)
    if draw.chance(0.5):
        quality = int(draw.uniform(25, 90))
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if decoded is None:
            raise RuntimeError("OpenCV cannot decode the JPEG that it has just encoded")
        picture = decoded
    return np.ascontiguousarray(picture), blurred


@lru_cache(maxsize=4)
def _grain_sheet(height: int, width: int) -> np.ndarray:
    """Standard normal noise (2 height, 2 width) float32, always the same."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([height, width])))
    return rng.standard_normal((2 * height, 2 * width), dtype=np.float32)
