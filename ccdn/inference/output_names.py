"""The names of prediction results, and the files that they must not replace."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ccdn.inference.sources import PICTURE_SUFFIXES, Source
from ccdn.inference.writers import COORDINATES
from ccdn.runtime.errors import ConfigError

_LONGEST = 180  # bytes of a name; leaves room for additions


def result_names(found: Sequence[Source]) -> list[str]:
    """A name for the results of each input: its own; with its suffix if two inputs share the name;
    and numbered if they share that too. Case is ignored, as on many disks.

    A picture with several faces has results NAME_face1, NAME_face2, ...: so a picture with a name
    of that form also keeps its suffix, and so does a film called landmarks, whose table would
    replace that of all pictures. A name of more than 180 bytes is cut and gets a checksum.
    """
    stems = Counter(source.path.stem.casefold() for source in found)
    names: list[str] = []
    taken: set[str] = set()
    for source in found:
        path, stem = source.path, source.path.stem.casefold()
        of_face = re.fullmatch(r"(.*)_face\d+", stem, re.DOTALL)
        mistaken = of_face is not None and of_face[1] in stems
        mistaken = mistaken or (source.is_stream and stem == "landmarks")
        plain = stems[stem] == 1 and not mistaken
        name = wanted = _shortened(path.stem if plain else path.name.replace(".", "_"))
        again = 1
        while name.casefold() in taken:
            again += 1
            name = f"{wanted}_file{again}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _shortened(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    # Cut between characters, not inside one.
    cut = raw[: _LONGEST - 13].decode("utf-8", "ignore").encode() or raw[: _LONGEST - 13]
    return f"{os.fsdecode(cut)}_{hashlib.sha256(raw).hexdigest()[:12]}"


def spare(
    found: Sequence[Source], names: Sequence[str], out: Path, formats: set[str], pts: str | None
) -> None:
    """Raise ConfigError if results would replace an input or annotations next to it.

    Annotations are .pts files, and .json and .csv files that this command did not write.
    """
    folder = os.path.realpath(out)
    files = [source.path for source in found if source.camera is None]
    beside = [path for path in files if os.path.realpath(path.parent) == folder]
    if pts is not None and os.path.realpath(Path(pts).parent) == folder:
        beside.append(Path(pts))
    if not beside:
        return
    results = {f"{name}_landmarks{end}" for name in names for end in (".png", ".jpg", ".mp4")}
    for path in beside:
        if path.name in results:
            raise ConfigError(f"--out {out}: the input {path.name} would be replaced by a result")
        for suffix in (".pts", ".json", ".csv"):
            note = path.with_suffix(suffix)
            kind = suffix[1:]
            if (kind == "pts" or kind in formats) and os.path.exists(note) and not _is_ours(note):
                raise ConfigError(f"--out {out} holds {note.name}: expected a folder without it")


def _is_ours(path: Path) -> bool:
    """Whether this command wrote a .json or .csv file."""
    if path.suffix == ".pts" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(1 << 16)
    return COORDINATES.encode() in start or start.startswith((b"frame,face,box_x0", b"image,face,"))


def check_writable(out: Path) -> None:
    """Raise OSError, naming the output folder, if it or files in it cannot be created; leaves no
    files behind.
    """
    folder = Path(os.path.abspath(out))
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None


def other_pictures(out: Path, found: Sequence[Source]) -> frozenset[str]:
    """Names, without suffix, of the pictures in the output folder that are not inputs."""
    if not out.is_dir():
        return frozenset()
    inputs = {os.path.realpath(source.path) for source in found}
    return frozenset(
        path.stem
        for path in out.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and os.path.realpath(path) not in inputs
    )
