"""Configuration: typed dataclasses, YAML presets, and overrides from the command line.

`load_config("tiny", ["train.lr=1e-3"])` merges, in this order: the defaults below, the preset or
YAML file (and the one named by its `base:` line), and the overrides. Every field can be overridden.
"""

from __future__ import annotations

import difflib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import yaml
from omegaconf import DictConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from ccdn.model_config import ModelConfig, check_model_config
from ccdn.runtime.untrusted import check_plain, check_yaml
from ccdn.train_config import CocsConfig as CocsConfig
from ccdn.train_config import LossConfig as LossConfig
from ccdn.train_config import TrainConfig, check_train_config

CONFIG_FOLDER = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


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
    fresh: bool = False  # True: no training face comes twice, every epoch has faces of its own


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


@dataclass
class Config:
    """Everything that a run needs; saved with it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def presets() -> list[str]:
    """The names of the configurations that ship with the package."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a preset (by name) or a YAML file and apply `section.field=value` overrides.

    Raises ConfigError, in one line, for a missing file, an unknown key, a value of the wrong type
    or one that is not among the allowed ones.
    """
    merged = OmegaConf.structured(Config)
    for source, values in _read_chain(str(name_or_path)):
        merged = _merge(merged, values, source)
    return _finish(_override(merged, overrides))


def resolve_data(data: DataConfig) -> DataConfig:
    """A copy in which `kind` and `eval_splits` are settled, looking at the folder where kind is
    auto.

    auto: `root` "synthetic" is the embedded generator; what a folder or file holds tells the
    benchmark (`ccdn.data.detect_kind`); any other is a folder of pictures. Raises ConfigError
    without a root, or where it is neither.
    """
    from ccdn.data import BENCHMARKS, detect_kind

    kind, root = data.kind, data.root and os.path.expanduser(data.root)
    if root == "synthetic" and kind in ("auto", "synthetic") and not Path(root).exists():
        kind, root = "synthetic", None
    if kind == "synthetic" and root is not None:
        raise ConfigError(f"data.kind synthetic reads no folder; found data.root {root!r}")
    if kind != "synthetic":
        if root is None:
            raise ConfigError(
                "where are the faces? --data DIR for a folder, --data synthetic for generated ones"
            )
        asked = BENCHMARKS.values() if kind == "auto" else [BENCHMARKS[kind]]
        tables = tuple(dict.fromkeys(suffix for found in asked for suffix in found.suffixes))
        table = Path(root).suffix.lower() in tables and Path(root).is_file()
        if not Path(root).is_dir() and not table:
            found = "another file" if Path(root).exists() else "nothing there"
            wanted = " or ".join(["a folder", *(f"a {suffix} file" for suffix in tables)])
            raise ConfigError(f"data.root {root!r}: expected {wanted}, found {found}")
        if kind == "auto":
            kind = detect_kind(root)
    return replace(
        data, kind=kind, root=root, eval_splits=data.eval_splits or list(BENCHMARKS[kind].measured)
    )


def config_from_dict(
    values: Mapping[str, Any], source: str = "configuration", overrides: Sequence[str] = ()
) -> Config:
    """Rebuild a Config from `config_to_dict`'s plain dictionary, and override fields. Raises
    ConfigError.
    """
    try:
        check_plain(values)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    for name, value in _leaves(values):
        # What a run has saved is resolved; in the file of a stranger it would read the environment.
        if "${" in repr(value):
            raise ConfigError(f"{source}: {name}: found the reference {value!r}, expected a value")
    merged = _merge(OmegaConf.structured(Config), dict(values), source)
    return _finish(_override(merged, overrides))


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested plain dictionaries, lists, strings and numbers."""
    return asdict(config)


def differences(expected: Config, found: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, by their full names, with the value of each of the two."""
    one, other = dict(_leaves(asdict(expected))), dict(_leaves(asdict(found)))
    names = dict.fromkeys((*one, *other))
    return {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_to_yaml(config: Config) -> str:
    """The configuration as YAML text that `load_config` reads back."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


# What a field may hold, beyond its type. A tuple lists values, a function says what is expected.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "data.box": ("provided", "gt", "detector"),
    "data.missing_box": ("error", "gt"),
    "data.missing_points": ("error", "place"),
    "data.orientation": ("auto", "stored", "upright"),
}
_LOWEST: dict[str, float] = {
    "data.limit": 1,
    "data.holdout": 0,
    "data.synthetic.train": 1,
    "data.synthetic.test": 1,
    "data.synthetic.size": 16,
    "data.synthetic.pose": 0,
    "data.synthetic.occlusion": 0,
}
_BELOW: dict[str, float] = {
    "data.holdout": 1,
    "data.margin": 10,
}


def _read_chain(name: str, seen: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The named file and its bases, the most basic first."""
    path = _find(name, seen[-1].parent if seen else None)
    if path in seen:
        raise ConfigError(f"{path}: its base: lines lead back to itself")
    values = read_yaml(path, "sections model:, data:, train:")
    base = values.pop("base", None)
    chain = [] if base is None else _read_chain(str(base), (*seen, path))
    return [*chain, (str(path), {str(key): value for key, value in values.items()})]


def read_yaml(path: Path, expected: str) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises ConfigError, in one line, for a file that cannot be read
    or holds anything else than what is `expected`.
    """
    try:
        text = path.read_text("utf-8")
        check_yaml(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    # ValueError: no UTF-8, or a number that is none
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {_one_line(error)}") from error
    if not isinstance(values, dict) or not values:
        found = repr(values) if values else "an empty file"
        raise ConfigError(f"{path}: expected {expected}; found {found}")
    return values


def _find(name: str, beside: Path | None) -> Path:
    folders = [Path()] if beside is None else [beside, Path()]
    for path in [folder / name for folder in folders] + [CONFIG_FOLDER / f"{name}.yaml"]:
        if path.is_file():
            return path.resolve()
    raise ConfigError(
        f"no configuration {name!r}: neither a file nor one of the presets {', '.join(presets())}"
    )


def _override(merged: DictConfig, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        merged = _merge(merged, _parse_override(merged, override), f"override {override!r}")
    return merged


def _parse_override(known: DictConfig, text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not key.strip() or key.startswith("-"):
        raise ConfigError(f"override {text!r}: expected section.field=value, e.g. train.lr=1e-3")
    try:
        check_yaml(value)
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if not _holds_text(known, path):
            raise ConfigError(f"override {text!r}: {_one_line(error)}") from error
        parsed = {"value": value}
    assert isinstance(parsed, dict)
    nested: Any = parsed["value"]
    # To YAML 2024_11_24 is a number, "a: b" a mapping and "a #1" an "a" with a comment.
    if nested is not None and value[:1] not in ("'", '"') and _holds_text(known, path):
        nested = value
    for part in reversed(path):
        nested = {part: nested}
    return dict(nested)


def _holds_text(known: Any, path: Sequence[str]) -> bool:
    """Whether the field of that name holds a text, such as the path of a folder."""
    for part in path:
        if not isinstance(known, DictConfig):
            return False
        known = known._get_node(part, validate_access=False)
    return isinstance(known, StringNode)


def _merge(merged: DictConfig, values: dict[str, Any], source: str) -> DictConfig:
    try:
        _check_keys(merged, values, source, "")
        result = OmegaConf.merge(merged, values)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{source}: {key}: {_one_line(error)}") from error
    assert isinstance(result, DictConfig)
    return result


def _check_keys(known: DictConfig, values: Mapping[str, Any], source: str, prefix: str) -> None:
    for key, value in values.items():
        full = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(f"{source}: unknown key {full!r}{_closest(str(key), full, known)}")
        below = known[key]
        if full == "data.augmentation_fields":
            continue  # its keys are the augmentation's own, checked where it is made
        if isinstance(below, DictConfig):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{source}: {full} is a section with the fields {', '.join(map(str, below))};"
                    f" found {value!r}"
                )
            _check_keys(below, value, source, f"{full}.")


def _closest(key: str, full: str, known: DictConfig) -> str:
    everywhere = _field_names(OmegaConf.structured(Config))
    here = difflib.get_close_matches(key, [str(name) for name in known], n=1)
    if here:
        prefix = full[: len(full) - len(key)]
        return f"; did you mean {prefix}{here[0]}?"
    # Of fields with the same last name the one nearest to the top, then the first: model.points.
    by_leaf: dict[str, str] = {}
    for name in sorted(everywhere, key=lambda name: name.count(".")):
        by_leaf.setdefault(name.rsplit(".", 1)[-1], name)
    elsewhere = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1)
    if elsewhere:
        return f"; did you mean {by_leaf[elsewhere[0]]}?"
    return f"; known here: {', '.join(map(str, known))}"


def _field_names(node: DictConfig, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key in map(str, node):
        value = node[key]
        if isinstance(value, DictConfig) and len(value):
            names += _field_names(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names


def _finish(merged: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {_one_line(error)}") from error
    assert isinstance(config, Config)
    _check_values(config)
    if config.data.cache_dir is not None:
        config.data.cache_dir = os.path.expanduser(config.data.cache_dir)
    if config.data.points is None:
        config.data.points = config.model.points
    return config


def _check_values(config: Config) -> None:
    def value(key: str) -> Any:
        found: Any = config
        for part in key.split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        return found

    for key in _field_names(OmegaConf.structured(config)):
        found = value(key)
        if isinstance(found, float) and not math.isfinite(found):
            raise ConfigError(f"{key}: expected a finite number, found {found}")
    from ccdn.data import BENCHMARKS

    for key, allowed in {"data.kind": ("auto", *BENCHMARKS), **_CHOICES}.items():
        if value(key) not in allowed:
            listed = ", ".join(map(str, allowed))
            raise ConfigError(f"{key}: expected one of {listed}; found {value(key)!r}")
    for key, lowest in _LOWEST.items():
        if value(key) is not None and value(key) < lowest:
            raise ConfigError(f"{key}: expected at least {lowest:g}, found {value(key)}")
    for key, bound in _BELOW.items():
        if value(key) >= bound:
            raise ConfigError(f"{key}: expected less than {bound:g}, found {value(key)}")
    try:
        check_model_config(config.model)
        check_train_config(config.train)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    laplace = config.train.loss.kind == "laplace"
    if laplace != config.model.spread:
        raise ConfigError(
            f"model.spread is {str(config.model.spread).lower()} and train.loss.kind"
            f" {config.train.loss.kind}: a spread is learned by laplace, and by no other"
        )
    points = config.data.points
    if points is not None and points != config.model.points:
        raise ConfigError(f"data.points is {points}, model.points is {config.model.points}")
    if config.train.selection == "holdout" and config.data.holdout == 0:
        raise ConfigError("train.selection is holdout, but data.holdout is 0; e.g. 0.05")
    synthetic = config.data.synthetic
    if synthetic.seed == synthetic.test_seed:
        raise ConfigError(
            f"data.synthetic.seed and test_seed are both {synthetic.seed}: the test faces would be"
            " the training faces"
        )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    return "; ".join(lines) or type(error).__name__
