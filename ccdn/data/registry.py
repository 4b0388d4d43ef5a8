"""Every benchmark, and what finds and opens one."""

from __future__ import annotations

from pathlib import Path

from ccdn.data.benchmark import Benchmark
from ccdn.data.faces import ImageFaces
from ccdn.data.images import DataError
from ccdn.data.readers import aflw, coco, cofw, folder, hrnet, w300, wflw
from ccdn.runtime.files import address_hint

# In the order in which a folder is asked for them: a folder of pictures is what no other one is.
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        w300.BENCHMARK,
        wflw.BENCHMARK,
        cofw.BENCHMARK,
        cofw.BENCHMARK_68,
        aflw.BENCHMARK,
        hrnet.BENCHMARK,
        coco.BENCHMARK,
        folder.BENCHMARK,
        Benchmark("synthetic", read=None),
    )
}


def open_faces(
    kind: str,
    root: str | Path | None = None,
    split: str = "train",
    *,
    points: int | None = None,
    skip_bad: bool = False,
    missing_points: str = "error",
    orientation: str = "auto",
) -> ImageFaces:
    """Open a split of a benchmark; `kind` is its name.

    Points at 0 0 and -1 -1 are marks of points that are not there, and an error; `missing_points`
    place takes them for places. `orientation` says on which picture the labels of files with an
    EXIF orientation were drawn: stored, upright, or auto, as the format has it (the reader's page
    says how). `points` is the number of landmarks expected. Raises DataError naming what was found
    and what was expected.
    """
    benchmark = BENCHMARKS.get(kind)
    if benchmark is None:
        raise DataError(f"found data kind {kind!r}, expected one of {', '.join(BENCHMARKS)}")
    if root is None and benchmark.read is not None:
        raise DataError(f"data kind {kind!r} needs a root: the folder that holds the data")
    if root is not None and not Path(root).exists() and (hint := address_hint(root)):
        raise DataError(f"{root}: no such file or folder{hint}")
    return benchmark.open(Path(root or ""), split, points, skip_bad, missing_points, orientation)


def detect_kind(root: str | Path) -> str:
    """The kind of the data in a folder or file, by what lies there; else "folder"."""
    root = Path(root)
    return next(name for name, benchmark in BENCHMARKS.items() if benchmark.is_at(root))
