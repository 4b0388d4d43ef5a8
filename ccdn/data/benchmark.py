"""A benchmark is one record, from which everything else about it derives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ccdn.data.faces import FaceSet, ImageFaces, subset_masks
from ccdn.data.images import DataError


@dataclass(frozen=True)
class PaperTable:
    """What the paper reports for a benchmark.

    protocol: its name for `ccdn evaluate --protocol`. table: its name in published.yaml. splits:
    those measured; the first contains all the others.
    """

    protocol: str
    table: str
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """One kind of data.

    name: `data.kind` of a configuration. points: landmarks; None: as many as the files have.
    read: opens a split, (root, split=, skip_bad=, missing_points=, orientation=) and, where
    `reads_points`, the number of points expected; None: generated, not read.

    sizes: face counts of the official splits. inspected: splits that `ccdn data inspect` counts
    (default: those of `sizes`, else train). measured: the default of `data.eval_splits`. notes:
    remarks about a split's size.

    markers: files and folders, any of which identifies the benchmark. recognises: a function of the
    root, for benchmarks that names do not identify. suffixes: of a root that is a single file.

    groups: for each split, the `Face.group` of its faces. attributes: subsets of the split test, by
    attributes of the faces. paper: what the paper reports, if anything.
    """

    name: str
    read: Callable[..., ImageFaces] | None
    points: int | None = None
    reads_points: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    inspected: tuple[str, ...] = ()
    measured: tuple[str, ...] = ("test",)
    notes: Mapping[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    recognises: Callable[[Path], bool] | None = None
    suffixes: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()
    paper: PaperTable | None = None

    def is_at(self, root: Path) -> bool:
        """Whether a folder or file holds this benchmark."""
        if self.recognises is not None:
            return self.recognises(root)
        return any((root / name).exists() for name in self.markers)

    def open(
        self,
        root: Path,
        split: str,
        points: int | None = None,
        skip_bad: bool = False,
        missing_points: str = "error",
        orientation: str = "auto",
    ) -> ImageFaces:
        """Open a split; the arguments are those of `ccdn.data.open_faces`. Raises DataError."""
        if self.read is None:
            raise DataError(
                f"data kind {self.name!r} has no files; ccdn.synthetic_faces.SyntheticFaces makes"
                " its faces"
            )
        more = {"points": points} if self.reads_points else {}
        faces = self.read(
            root,
            split=split,
            skip_bad=skip_bad,
            missing_points=missing_points,
            orientation=orientation,
            **more,
        )
        if points not in (None, faces.points):
            raise DataError(
                f"{faces.name} has {faces.points} points, the configuration asks for {points}"
            )
        return faces

    def holds(self, outer: str, inner: str) -> bool:
        """Whether a split contains all faces of another one, which then is not opened."""
        if outer in self.groups and inner in self.groups:
            one, other = set(self.groups[inner]), set(self.groups[outer])
            # Two names for the same faces (full and test): only one is opened.
            return one < other or (one == other and outer < inner)
        return outer == "test" and inner in self.attributes

    def members(self, faces: FaceSet, opened: str, split: str) -> np.ndarray:
        """The indices of a split's faces in the opened split that holds it, (n,) int64."""
        if split == opened:
            return np.arange(len(faces))
        if split in self.groups:
            groups = self.groups[split]
            return np.flatnonzero([faces.face(i).group in groups for i in range(len(faces))])
        return np.flatnonzero(subset_masks(faces)[split])
