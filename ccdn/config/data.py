"""The faces of a run: the `data` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ccdn.runtime.validation import Count, Integer, NotNegative, Number, Share, Text


def _known_kind(kind: str) -> str:
    from ccdn.data import BENCHMARKS

    known = ("auto", *BENCHMARKS)
    if kind not in known:
        raise ValueError(f"expected one of {', '.join(known)}; found {kind!r}")
    return kind


@dataclass
class SyntheticConfig:
    """The embedded face generator; face i depends on its version, the seed and i only."""

    train: Count = 2000  # faces of the training split
    test: Count = 300  # faces of the test split
    seed: Integer = 0  # of the training split
    test_seed: Integer = 1  # of the test split: never equal to seed
    size: Annotated[Integer, Field(ge=16)] = 160  # side of a picture in pixels
    pose: NotNegative = 30.0  # largest yaw in degrees
    occlusion: NotNegative = 0.2  # share of faces with something in front of them
    fresh: bool = False  # True: every epoch has its own training faces, none repeated


@dataclass
class DataConfig:
    """Where faces come from, which box is cropped around them, and how training crops vary."""

    # auto: see `resolve_data`; or a benchmark's name, of `ccdn.data.BENCHMARKS`
    kind: Annotated[Text, AfterValidator(_known_kind)] = "auto"
    root: Text | None = None
    train_split: Text = "train"
    eval_splits: list[Text] = field(default_factory=list)  # empty: those of the benchmark
    points: Integer | None = None  # None: those of the model
    box: Literal["provided", "gt", "detector"] = "provided"
    detector: Text = "auto"  # of box detector; a name of `ccdn.data.detection`
    # added to the box, as a share of its side (half on each side)
    margin: Annotated[Number, Field(lt=10)] = 0.25
    augmentation: Text = "newell"  # a preset of `ccdn.data.augment`
    augmentation_fields: dict[str, Any] = field(default_factory=dict)  # replace the preset's
    holdout: Share = 0.0  # share of the training faces held out to choose an epoch
    limit: Count | None = None  # use only the first faces of each split
    # where box detector finds no face; gt: the landmarks' box, and the faces are counted
    missing_box: Literal["error", "gt"] = "error"
    cache: bool = True  # keep decoded images in memory
    cache_dir: Text | None = None  # keep them in this folder too, for other runs
    on_device: bool = False  # keep them on the device and make training crops there
    skip_bad: bool = False  # leave out (and count) files that cannot be read
    missing_points: Literal["error", "place"] = "error"  # what a point at 0 0 or -1 -1 is
    # the picture that labels are of, by EXIF
    orientation: Literal["auto", "stored", "upright"] = "auto"
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
