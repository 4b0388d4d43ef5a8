"""YAML files, presets and overrides merged into a checked Config, and back."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccdn.config.checks import check_together
from ccdn.config.run import Config
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.untrusted import check_plain, check_yaml
from ccdn.runtime.validation import FieldError, holds_text, types_of, validated

CONFIG_FOLDER = Path(__file__).parent / "presets"
GRID_FOLDER = Path(__file__).parent / "grids"


def presets() -> list[str]:
    """The names of the configurations bundled with the package."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a preset (by name) or a YAML file and apply `section.field=value` overrides.

    Raises ConfigError, in one line, for a missing file, an unknown key, and a value that the
    annotation of its field excludes.
    """
    merged = _Merged()
    for source, values in _read_chain(str(name_or_path)):
        merged.add(values, source)
    return merged.finished(overrides)


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
        # Saved configurations are resolved already; doing so here would read the environment.
        if "${" in repr(value):
            raise ConfigError(f"{source}: {name}: found the reference {value!r}, expected a value")
    merged = _Merged()
    merged.add(_as_it_ran(values), source)
    return merged.finished(overrides)


def _as_it_ran(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Saved before `data.detector` existed, box detector meant OpenCV's cascade."""
    data = values.get("data")
    if isinstance(data, Mapping) and data.get("box") == "detector" and "detector" not in data:
        return {**values, "data": {**data, "detector": "haar"}}
    return values


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


def _read_chain(name: str, seen: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The named file and its bases, the most basic first."""
    path = _find(name, seen[-1].parent if seen else None)
    if path in seen:
        raise ConfigError(f"{path}: circular base: reference")
    values = read_yaml(path, "sections model:, data:, train:")
    base = values.pop("base", None)
    chain = [] if base is None else _read_chain(str(base), (*seen, path))
    return [*chain, (str(path), {str(key): value for key, value in values.items()})]


def read_yaml(path: Path, expected: str) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises ConfigError, in one line, for a file that cannot be read
    or holds anything other than what is `expected`.
    """
    try:
        text = path.read_text("utf-8")
        check_yaml(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    # ValueError: invalid UTF-8 or an invalid number
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


class _Merged:
    """Values of a configuration: OmegaConf merges them, and they are checked when all are there."""

    def __init__(self) -> None:
        self._values = OmegaConf.create(asdict(Config()))
        self._files: dict[str, str] = {}  # where the value of a field comes from, if from a file

    def add(self, values: Mapping[str, Any], source: str, file: bool = True) -> None:
        """Replace fields. Raises ConfigError, which names the source, for one that is unknown."""
        for name, value in _checked_fields(Config, values, source, ""):
            self._files[name] = f"{source}: " if file else ""
            kind = get_origin(_type_of(name.split(".")))
            # OmegaConf merges neither into the other, and says only that.
            if kind in (list, dict) and isinstance(value, (list, dict)) and type(value) is not kind:
                what = "a list" if kind is list else "a mapping"
                raise ConfigError(f"{self._files[name]}{name}: expected {what}, found {value!r}")
        try:
            merged = OmegaConf.merge(self._values, dict(values))
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            raise ConfigError(f"{source}: {key}: {_one_line(error)}") from error
        assert isinstance(merged, DictConfig)
        self._values = merged

    def finished(self, overrides: Sequence[str]) -> Config:
        """The configuration, after overrides. Raises ConfigError for the first bad value."""
        for override in overrides:
            self.add(_parse_override(override), f"override {override!r}", file=False)
        try:
            config = validated(Config, resolve(self._values, "configuration"))
        except FieldError as error:
            file = self._files.get(error.field.partition("[")[0], "")  # without an index in a list
            raise ConfigError(f"{file}{error}") from error
        check_together(config)
        if config.data.cache_dir is not None:
            config.data.cache_dir = os.path.expanduser(config.data.cache_dir)
        if config.data.points is None:
            config.data.points = config.model.points
        if config.data.box == "detector" and config.data.detector == "auto":
            from ccdn.data.detection import default_name

            config.data.detector = default_name()  # another machine may have another one
        return config


def resolve(values: Any, source: str) -> dict[str, Any]:
    """Plain values, with references such as `${oc.env:HOME}` replaced by what they refer to. Raises
    ConfigError.
    """
    try:
        found = OmegaConf.to_container(
            OmegaConf.create(values), resolve=True, throw_on_missing=True
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_one_line(error)}") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not key.strip() or key.startswith("-"):
        raise ConfigError(f"override {text!r}: expected section.field=value, e.g. train.lr=1e-3")
    is_text = holds_text(_type_of(path))
    try:
        check_yaml(value)
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if not is_text:
            raise ConfigError(f"override {text!r}: {_one_line(error)}") from error
        parsed = {"value": value}
    assert isinstance(parsed, dict)
    nested: Any = parsed["value"]
    # YAML reads 2024_11_24 as a number, "a: b" as a mapping and "a #1" as "a" with a comment.
    if nested is not None and value[:1] not in ("'", '"') and is_text:
        nested = value
    for part in reversed(path):
        nested = {part: nested}
    return dict(nested)


def _is_section(kind: Any) -> TypeGuard[type]:
    return is_dataclass(kind)


def _type_of(path: Sequence[str]) -> Any:
    """The type of the field of that name, None if there is none."""
    found: Any = Config
    for part in path:
        found = types_of(found).get(part) if _is_section(found) else None
    return found


def _checked_fields(
    kind: type, values: Mapping[str, Any], source: str, prefix: str
) -> Iterator[tuple[str, Any]]:
    """The full names of the fields that values have, and their values. Raises ConfigError for an
    unknown one.
    """
    known = types_of(kind)
    for key, value in values.items():
        full = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(f"{source}: unknown key {full!r}{_closest(str(key), full, known)}")
        if not _is_section(below := known[key]):
            yield full, value
        elif isinstance(value, Mapping):
            yield from _checked_fields(below, value, source, f"{full}.")
        else:
            raise ConfigError(
                f"{source}: {full} is a section with the fields {', '.join(types_of(below))};"
                f" found {value!r}"
            )


def _closest(key: str, full: str, known: Mapping[str, Any]) -> str:
    here = difflib.get_close_matches(key, list(known), n=1)
    if here:
        prefix = full[: len(full) - len(key)]
        return f"; did you mean {prefix}{here[0]}?"
    # Among fields with the same last name: the one nearest to the top, then the first.
    by_leaf: dict[str, str] = {}
    for name in sorted(_field_names(Config), key=lambda name: name.count(".")):
        by_leaf.setdefault(name.rsplit(".", 1)[-1], name)
    elsewhere = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1)
    if elsewhere:
        return f"; did you mean {by_leaf[elsewhere[0]]}?"
    return f"; known here: {', '.join(known)}"


def _field_names(kind: type, prefix: str = "") -> Iterator[str]:
    """The full names of all fields below a section."""
    for name, below in types_of(kind).items():
        if _is_section(below):
            yield from _field_names(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    return "; ".join(lines) or type(error).__name__
