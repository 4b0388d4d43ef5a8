"""The faces of a run: the `data` section of a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional


@dataclass
class SyntheticConfig:
    """The embedded face generator; face i depends on its version, the seed and i only."""

    train: int = 2000  # faces of the training split
    test: int = 300  # faces of the test split
    seed: int = 0  # of the training split
    test_seed: int = 1  # of the test split: never equal to seed
    size: int = 160  # side of a picture in pixels
    pose: float = 30.0  # largest yaw in degrees
    occlusion: float = 0.2  # share of faces with something in front of them
    fresh: bool = False  # True: every epoch has its own training faces, none repeated


@dataclass
class DataConfig:
    """Where faces come from, which box is cropped around them, and how training crops vary."""

    kind: str = "auto"  # a benchmark's name (`ccdn.data.BENCHMARKS`); auto: see `resolve_data`
    root: Optional[str] = None  # noqa: UP045  (OmegaConf reads the annotation on Python 3.10)
    train_split: str = "train"
    eval_splits: list[str] = field(default_factory=list)  # empty: those of the benchmark
    points: Optional[int] = None  # noqa: UP045  None: those of the model
    box: str = "provided"  # provided | gt | detector
    margin: float = 0.25  # added to the box, as a share of its side (half on each side)
    augmentation: str = "newell"  # newell | mmdn | mild | strong | none
    augmentation_fields: dict[str, Any] = field(default_factory=dict)  # replace the preset's
    holdout: float = 0.0  # share of the training faces held out to choose an epoch
    limit: Optional[int] = None  # noqa: UP045  use only the first faces of each split
    missing_box: str = "error"  # error | gt, where box detector finds no face (gt: counted)
    cache: bool = True  # keep decoded images in memory
    cache_dir: Optional[str] = None  # noqa: UP045  keep them in this folder too, for other runs
    on_device: bool = False  # keep them on the device and make training crops there
    skip_bad: bool = False  # leave out (and count) files that cannot be read
    missing_points: str = "error"  # error | place: what a point at 0 0 or -1 -1 is
    orientation: str = "auto"  # auto | stored | upright: the picture that labels are of, by EXIF
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
