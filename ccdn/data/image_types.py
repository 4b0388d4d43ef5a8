"""What is given to OpenCV: films by their first bytes, and pictures of how many pixels."""

from __future__ import annotations

# A larger one takes 1.6 GB as it is decoded; 200 megapixels is what telephones have. It is also
# what OpenCV is told, in OPENCV_IO_MAX_IMAGE_PIXELS, before it is loaded.
MOST_PIXELS = 1 << 28

# FFmpeg takes a list for a film, whatever its name is, and opens the files in it.
FILMS = "MP4, QuickTime, AVI, Matroska, WebM, MPEG, ASF (WMV), FLV, MXF or Ogg"
_FILM_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\0\0\1\xba",  # MPEG, and an MPEG video stream
    b"\0\0\1\xb3",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF
    b"FLV\1",
    b"OggS",
    b"\x06\x0e\x2b\x34",  # MXF
)
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PACKETS = (188, 192)  # bytes of a packet of an MPEG transport stream


def is_film(start: bytes) -> bool:
    """Whether a file that begins so, with 200 bytes or more, is one of FILMS."""
    return (
        start.startswith(_FILM_STARTS)
        or (start.startswith(b"RIFF") and start[8:12] == b"AVI ")
        or start[4:8] in _QUICKTIME
        or any(
            start[first : first + size + 1 : size] == b"GG"
            for first, size in zip((0, 4), _PACKETS, strict=True)
        )
    )
