"""YAML files, presets and overrides merged into a checked Config, and back."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from ccdn.config.checks import check_values, field_names
from ccdn.config.run import Config
from ccdn.runtime.errors import ConfigError
from ccdn.runtime.untrusted import check_plain, check_yaml

CONFIG_FOLDER = Path(__file__).parent / "presets"
GRID_FOLDER = Path(__file__).parent / "grids"


def presets() -> list[str]:
    """The names of the configurations bundled with the package."""
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
    # YAML reads 2024_11_24 as a number, "a: b" as a mapping and "a #1" as "a" with a comment.
    if nested is not None and value[:1] not in ("'", '"') and _holds_text(known, path):
        nested = value
    for part in reversed(path):
        nested = {part: nested}
    return dict(nested)


def _holds_text(known: Any, path: Sequence[str]) -> bool:
    """Whether the field of that name is a string, such as a folder's path."""
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
            continue  # its keys belong to the augmentation, which checks them itself
        if isinstance(below, DictConfig):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{source}: {full} is a section with the fields {', '.join(map(str, below))};"
                    f" found {value!r}"
                )
            _check_keys(below, value, source, f"{full}.")


def _closest(key: str, full: str, known: DictConfig) -> str:
    everywhere = field_names(OmegaConf.structured(Config))
    here = difflib.get_close_matches(key, [str(name) for name in known], n=1)
    if here:
        prefix = full[: len(full) - len(key)]
        return f"; did you mean {prefix}{here[0]}?"
    # Among fields with the same last name: the one nearest to the top, then the first.
    by_leaf: dict[str, str] = {}
    for name in sorted(everywhere, key=lambda name: name.count(".")):
        by_leaf.setdefault(name.rsplit(".", 1)[-1], name)
    elsewhere = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(by_leaf), n=1)
    if elsewhere:
        return f"; did you mean {by_leaf[elsewhere[0]]}?"
    return f"; known here: {', '.join(map(str, known))}"


def _finish(merged: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {_one_line(error)}") from error
    assert isinstance(config, Config)
    check_values(config)
    if config.data.cache_dir is not None:
        config.data.cache_dir = os.path.expanduser(config.data.cache_dir)
    if config.data.points is None:
        config.data.points = config.model.points
    return config


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("full_key:", "object_type="))]
    return "; ".join(lines) or type(error).__name__
