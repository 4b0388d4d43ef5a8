"""Damaged binary files of every format that is read, and what the readers make of them.

    python tests/ccdn/data/mutants.py jpg png --first 0 --count 10000

reads mutants 0 to 9999 of a JPEG and a PNG in this process and prints each that ends in anything
else than a value or a DataError of one line, that takes too much memory, or too long. What a mutant
is follows from its format and its number. `survive` runs that in processes that may die.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 1 << 30  # bytes that a reader may use beyond its use for the undamaged file
SECONDS = 20  # of a processor, for a mutant
INTERESTING = (0, 1, 2, 4, 8, 14, 15, 16, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16)
INTERESTING += (1 << 24, 1 << 28, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
INTERESTING += (1 << 63, (1 << 64) - 1)

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Format:
    """A file's undamaged content, its damage beyond random changes, and how it is read."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    special: tuple[Mutate, ...] = ()

    def mutant(self, number: int) -> bytes:
        """The content of a mutant, which follows from its number."""
        chance = random.Random(f"{self.name} {number}")
        content = self.content
        if self.special and chance.random() < 0.7:
            content = chance.choice(self.special)(content, chance)
            if chance.random() < 0.7:
                return content
        return damaged(content, chance)


# ---- damage ------------------------------------------------------------------------------------


def damaged(content: bytes, chance: random.Random, most: int = 6) -> bytes:
    """Some bytes changed, cut out, doubled, moved, or the end cut off; half of the time in one
    place only, so that some mutants get far.
    """
    changed = bytearray(content)
    for _ in range(1 if chance.random() < 0.5 else chance.randint(1, most)):
        place, end = sorted(chance.randrange(len(changed) + 1) for _ in range(2))
        how = chance.randrange(9)
        if how <= 1 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        elif how <= 3:
            changed[place : place + 1] = bytes([chance.choice((0, 1, 127, 128, 255, place & 255))])
        elif how <= 5:
            put_number(changed, place, chance)
        elif how == 6:
            end = min(end, place + chance.choice((1, 4, 8, 64, 10**6)))
            changed[place:end] = changed[place:end] * chance.choice((0, 2, 3))
        elif how == 7 and chance.random() < 0.4:
            del changed[place:]
        else:
            source = chance.randrange(len(changed) + 1)
            size = chance.choice((1, 2, 4, 8, 32))
            changed[place : place + size] = changed[source : source + size]
        if not changed:
            break
    return bytes(changed)


def put_number(content: bytearray, place: int, chance: random.Random) -> None:
    """Overwrite 1 to 8 bytes by a number on which readers fail."""
    size = chance.choice((1, 2, 4, 4, 8))
    number = chance.choice(INTERESTING) + chance.choice((-1, 0, 0, 0, 1))
    number = number if chance.random() < 0.8 else chance.getrandbits(64)
    order = chance.choice(("little", "little", "big"))
    content[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, order)


def at_fields(*marks: bytes, reach: int = 96) -> Mutate:
    """Numbers overwritten near one of these marks: sizes, counts and addresses lie there."""

    def mutate(content: bytes, chance: random.Random) -> bytes:
        places = [place for mark in marks for place in found(content, mark)] or [0]
        changed = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            place = chance.choice(places) + chance.choice((1, 2, 4)) * chance.randrange(reach // 4)
            put_number(changed, min(place, len(changed) - 1), chance)
        return bytes(changed)

    return mutate


def found(content: bytes, mark: bytes) -> Iterator[int]:
    """Where a mark is in a content."""
    place = content.find(mark)
    while place >= 0:
        yield place
        place = content.find(mark, place + 1)


def in_zlib(content: bytes, chance: random.Random) -> bytes:
    """What lies behind zlib changed, and packed again; in HDF5 it must not become longer."""
    streams = []
    for place in range(len(content) - 2):
        if content[place] == 0x78 and int.from_bytes(content[place : place + 2], "big") % 31 == 0:
            stream = zlib.decompressobj()
            try:
                inside = stream.decompress(content[place:])
            except zlib.error:
                continue
            if stream.eof:
                streams.append((place, len(content) - place - len(stream.unused_data), inside))
    place, size, inside = chance.choice(streams)
    change = chance.choice((damaged, at_fields(b"\x05\0\0\0", b"\x06\0\0\0", b"\x0e\0\0\0")))
    inside = change(inside, chance)
    packed = zlib.compress(inside, 9)
    before = content[:place]
    if content.startswith(b"MATLAB 5") and before[-8:-4] == b"\x0f\0\0\0":
        before = before[:-4] + len(packed).to_bytes(4, "little")
    elif len(packed) <= size:
        packed = packed.ljust(size, b"\0")
    return before + packed + content[place + size :]


def in_png(content: bytes, chance: random.Random) -> bytes:
    """A chunk of a PNG changed, left out or doubled, with its right check sum."""
    chunks, place = [], 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    number = chance.randrange(len(chunks))
    kind, inside = chunks[number]
    if kind == b"IDAT" and chance.random() < 0.5:
        inside = zlib.compress(damaged(zlib.decompress(inside), chance))
    elif inside:
        inside = damaged(inside, chance, 2)
    chunks[number : number + 1] = [(kind, inside)] * chance.choice((0, 1, 1, 1, 1, 2))
    parts = (
        struct.pack(">I", len(i)) + k + i + struct.pack(">I", zlib.crc32(k + i)) for k, i in chunks
    )
    return content[:8] + b"".join(parts)


def in_zip(content: bytes, chance: random.Random) -> bytes:
    """A part of a zip archive changed, with its right check sum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
        how = archive.infolist()[0].compress_type
    first = [name for name in parts if name.endswith(("data.pkl", ".npy"))]
    name = chance.choice(first if chance.random() < 0.8 else list(parts))
    inside = bytearray(parts[name])
    reach = 128 if name.endswith(".npy") and chance.random() < 0.5 else len(inside)
    changed = damaged(bytes(inside[:reach]), chance, 3) if inside else b"?"
    parts[name] = changed + bytes(inside[reach:])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, inside in parts.items():
            archive.writestr(name, inside)
    return out.getvalue()


def in_safetensors(content: bytes, chance: random.Random) -> bytes:
    """The header of a safetensors file changed, with its right length."""
    size = int.from_bytes(content[:8], "little")
    header = bytearray(content[8 : 8 + size])
    if chance.random() < 0.5:
        header = bytearray(damaged(bytes(header), chance, 2))
    else:
        digits = [i for i, byte in enumerate(header) if 48 <= byte <= 57]
        number = str(chance.choice(INTERESTING)).encode()
        place = chance.choice(digits)
        header[place : place + chance.choice((1, 2))] = number
    return len(header).to_bytes(8, "little") + bytes(header) + content[8 + size :]


def in_region(content: bytes, chance: random.Random) -> bytes:
    """The header of a cached region changed, with its right length and check sum."""
    start = content.index(b"{")
    size = int.from_bytes(content[start - 4 : start], "little")
    header = damaged(content[start : start + size], chance, 2)
    whole = content[: start - 4] + len(header).to_bytes(4, "little") + header
    whole += zlib.crc32(whole).to_bytes(4, "little")
    return whole + bytes(-len(whole) % 64) + content[-(-(start + size + 4) // 64) * 64 :]


# ---- reading -----------------------------------------------------------------------------------


def examine(kind: Format, number: int, path: Path) -> str | None:
    """What is wrong with how a mutant ends; None where nothing is."""
    from ccdn.checkpoint.state import CheckpointError
    from ccdn.data import DataError

    path.write_bytes(kind.mutant(number) if number >= 0 else kind.content)
    try:
        kind.read(path)
    except (DataError, CheckpointError) as error:
        named = path.name in str(error) or "no usable face" in str(error)
        if "\n" in str(error) or not named:
            return f"not one line that names the file: {str(error)[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    return None


def size_now() -> tuple[int, int]:
    """Bytes of address space and of memory that this process has."""
    pages = Path("/proc/self/statm").read_text().split()
    return int(pages[0]) * resource.getpagesize(), int(pages[1]) * resource.getpagesize()


def work(names: list[str], first: int, count: int, seconds: float) -> None:
    """Read mutants one after the other; a line with its format and number before each."""
    from formats import NAMES, formats

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in formats(Path(folder), names or NAMES).items():
            place = Path(folder) / name
            place.mkdir()
            path = place / f"mutant{Path(name).suffix or '.' + name}"
            wrong = examine(kind, -1, path)
            if wrong is not None:
                print(f"wrong {name} -1 the undamaged file: {wrong}", flush=True)
            space, memory = size_now()
            resource.setrlimit(resource.RLIMIT_AS, (space + 2 * MEMORY, resource.RLIM_INFINITY))
            for number in range(first, first + count):
                print(f"reads {name} {number}", flush=True)
                signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
                wrong = examine(kind, number, path)
                signal.setitimer(signal.ITIMER_PROF, 0)
                used = size_now()[1]
                if used > memory + MEMORY and wrong is None:
                    wrong = f"{(used - memory) >> 20} MiB stay in use"
                if wrong is not None:
                    print(f"wrong {name} {number} {wrong}", flush=True)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    print("done", flush=True)


def survive(
    names: Sequence[str], count: int, first: int = 0, seconds: float = SECONDS
) -> list[str]:
    """What is wrong with mutants of formats, read in processes that may die; empty: nothing.

    Raises RuntimeError where not all of them were read.
    """
    wrong: list[str] = []
    waiting = [(name, first) for name in names]
    reads = 0
    while waiting:
        # All formats in one process, or the rest of that of which a mutant ended one.
        together = [waiting[0]] if waiting[0][1] > first else [w for w in waiting if w[1] == first]
        waiting = [one for one in waiting if one not in together]
        place = together[0][1]
        command = [sys.executable, __file__, *(name for name, _ in together)]
        command += ["--first", str(place), "--count", str(first + count - place)]
        quiet = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8", "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [*command, "--seconds", str(seconds)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **quiet},
        )
        lines = ended.stdout.splitlines()
        wrong += [line.removeprefix("wrong ") for line in lines if line.startswith("wrong ")]
        read = [line.split()[1:] for line in lines if line.startswith("reads ")]
        reads += len(read)
        if lines and lines[-1] == "done":
            continue
        if not read:
            raise RuntimeError(f"{names}: no mutant was read: {ended.stderr[-2000:]}")
        name, dead = read[-1][0], int(read[-1][1])
        wrong.append(f"{name} {dead} the process ended with {ended.returncode}")
        done = [one for one, _ in together].index(name)
        if dead + 1 < first + count:
            waiting.append((name, dead + 1))
        waiting += together[done + 1 :]
    if reads != count * len(names):
        raise RuntimeError(f"{reads} mutants were read, expected {count * len(names)}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="by default all")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a processor, for each")
    options = parser.parse_args()
    work(options.formats, options.first, options.count, options.seconds)


if __name__ == "__main__":
    main()
