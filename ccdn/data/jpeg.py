"""Whether a JPEG has all of its pixels: decoders paint missing ones grey and only warn."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# Where entropy-coded bytes end: a marker with fill bytes before it. FF 00 is a coded FF.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_RESTARTS, _END, _SCAN, _INTERVAL = range(0xD0, 0xD8), 0xD9, 0xDA, 0xDD
_FRAMES = tuple(k for k in range(0xC0, 0xD0) if k not in (0xC4, 0xC8, 0xCC))
_BASELINE, _HUFFMAN = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
_LAST = 32  # pixels of the last block, which some cameras end a few bits early
_GREY = 128
# Coded bytes that mean nothing, without FF. A scan that has all of its own does not heed them.
_NOISE = [bytes(np.random.default_rng(seed).integers(0, 255, 1024, np.uint8)) for seed in range(4)]


class Jpeg(NamedTuple):
    """`plain`: one Huffman-coded scan, so that missing blocks are decoded as mid-grey. `known`:
    `lacks_blocks` can judge it.
    """

    plain: bool = False
    known: bool = False


def parse_jpeg(content: bytes) -> Jpeg | None:
    """The structure of a JPEG up to its first scan. None if it is truncated: it has no scan, or
    no end marker behind it (a thumbnail in the header has its own).
    """
    position, frame, components = 2, 0, 0
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return Jpeg()  # not the marker structure we know: left to the decoder
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == _SCAN:
            if content.find(b"\xff\xd9", position) < 0:
                return None
            whole = content[position + 4 : position + 5] == bytes([components])
            return Jpeg(frame in _BASELINE and whole and components < 4, frame in _HUFFMAN)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # markers without a payload
            position += 2
        else:
            if marker in _FRAMES:
                frame = marker
                components = int.from_bytes(content[position + 9 : position + 10], "big")
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return None


def shows_grey(image: np.ndarray, step: int = 4) -> bool:
    """Whether a decoded picture (H, W, 3) has a mid-grey corner or, looking at every `step`-th
    pixel, a mid-grey patch, as missing blocks of 8 pixels leave it.
    """
    if (image[[0, 0, -1, -1], [0, -1, 0, -1]] == _GREY).all(1).any():
        return True
    grey = (image[::step, ::step] == _GREY).all(2)
    return bool((grey[1:, 1:] & grey[:-1, 1:] & grey[1:, :-1] & grey[:-1, :-1]).any())


def lacks_blocks(content: bytes, plain: bool) -> bool:
    """Whether coded bytes of a scan end before its last block.

    It needs no Huffman decoder: it counts restart markers, and appends meaningless bytes to every
    run of coded bytes. A complete run ignores them; an incomplete one decodes to another picture.
    """
    coded = _Coded()
    if not coded.walk(content) or coded.lacks_restarts:
        return True
    original = content[: coded.end] + b"\xff\xd9"
    wanted = _digest(original, plain)
    if wanted is None:
        return False
    for noise in _NOISE[:1] if coded.is_complete else _NOISE:
        pieces, start = [], 0
        for place in coded.ends:
            pieces += [original[start:place], noise[:64] if len(coded.ends) > 32 else noise]
            start = place
        if _digest(b"".join([*pieces, original[start:]]), plain) != wanted:
            return True
    return False


@dataclass
class _Coded:
    """The runs of coded bytes of a JPEG: where each ends, and where the picture's end marker is.

    `precise` holds the coefficients of components that came to their last bit.
    """

    ends: list[int] = field(default_factory=list)
    end: int = 0
    lacks_restarts: bool = False
    precise: set[tuple[int, int]] = field(default_factory=set)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    interval: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every coefficient came to its last bit, as a progressive JPEG's last scan has
        it.
        """
        return len(self.precise) == 64 * len(self.sampling)

    def walk(self, content: bytes) -> bool:
        """Go through the markers; False if there is no end marker."""
        position, coded, restarts = 2, False, 0
        while (found := _MARKER.search(content, position)) is not None:
            marker = found.group(1)[0]
            if coded:
                self.ends.append(found.start())
            position = found.end()
            if marker in _RESTARTS:
                restarts -= 1
                continue
            self.lacks_restarts |= restarts > 0
            if marker == _END:
                self.end = found.start()
                return True
            length = int.from_bytes(content[position : position + 2], "big")
            payload = content[position + 2 : position + length]
            if len(payload) != length - 2:
                return False
            coded = marker == _SCAN
            if coded:
                restarts = self._scan(payload)
            elif marker in _FRAMES:
                height, width = (int.from_bytes(payload[k : k + 2], "big") for k in (1, 3))
                self.size = height, width
                for one, factors in zip(payload[6::3], payload[7::3], strict=False):
                    self.sampling[one] = (max(1, factors & 15), max(1, factors >> 4))
            elif marker == _INTERVAL:
                self.interval = int.from_bytes(payload[:2], "big")
            position += length
        return False

    def _scan(self, payload: bytes) -> int:
        """How many restart markers the scan of this header has."""
        if len(payload) < 4:
            return 0
        *selectors, first, last, bits = payload[1:]
        chosen = [one for one in selectors[::2] if one in self.sampling]
        if bits & 15 == 0:
            self.precise |= {(one, k) for one in chosen for k in range(first, min(last, 63) + 1)}
        if not self.interval or not chosen:
            return 0
        largest = [max(factors[k] for factors in self.sampling.values()) for k in (0, 1)]
        blocks = 1
        for side, most, own in zip(self.size, largest, self.sampling[chosen[0]], strict=True):
            # A scan of one component has its blocks one by one, others all that cover 8 pixels of
            # the coarsest component.
            blocks *= -(-side // (8 * most)) if len(chosen) > 1 else -(-side * own // (8 * most))
        return -(-blocks // self.interval) - 1


def _digest(content: bytes, exact: bool) -> int | None:
    """A check sum of the pixels, without the last block unless `exact`; None where Pillow, whose
    decoder prints no warnings, cannot read them.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        pixels: np.ndarray = np.asarray(JpegImageFile(io.BytesIO(content)))
    except Exception:  # OSError, SyntaxError, struct.error, depending on the damage
        return None
    height, width = pixels.shape[:2]
    if exact or max(height, width) <= _LAST:
        return zlib.crc32(pixels.tobytes())
    return zlib.crc32(pixels[-_LAST:, :-_LAST].tobytes(), zlib.crc32(pixels[:-_LAST].tobytes()))
