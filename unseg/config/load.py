"""YAML + `dotted.key=value` overrides -> a frozen, typed, checked dataclass.

OmegaConf reads and merges; `unseg.config.typed` gives types, so that every fault of a file is
reported at once, each with its full key, the value found, what is accepted, and the nearest valid
key.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseg.config.typed import MISSING, Reader, dotted_keys, short_text
from unseg.config.yaml_file import YamlFile
from unseg.utils.errors import ConfigError

T = TypeVar("T")

_OVERRIDE = re.compile(r"[^=\s.]+(\.[^=\s.]+)*=.*", re.DOTALL)


def bounded(default: Any = MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number (or every number of its tuple) must lie in [low, high]."""
    metadata = {"low": low, "high": high}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_config(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Configuration of type `schema` from a YAML file and dotted overrides.

    A dataclass of the schema may define `problems(self) -> Iterator[tuple[str, str]]`, yielding
    (key relative to itself, message) for what types and bounds cannot say.

    Args:
        schema: a frozen, keyword-only dataclass, nested ones included.
        path: YAML file, which may name a `base` beside it (`unseg.config.yaml_file`), or None for
            defaults and overrides alone.
        overrides: `dotted.key=value`; the value is read as YAML, items of lists are numbers
            (`data.parts.0.name=x`).

    Raises:
        ConfigError: with one line for every fault of the file and the overrides.
    """
    if path is None:
        values, overridden = _apply({}, overrides)
        return _build(Reader(schema, values, source="defaults", overridden=overridden))
    return _load(schema, YamlFile.read(Path(path)), overrides, only_known=False)


def load_sections(schema: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """As `load_config`, of the sections that `schema` has; other sections of the file are skipped.

    For commands that need one part of another command's configuration.
    """
    return _load(schema, YamlFile.read(Path(path)), overrides, only_known=True)


def from_dict(schema: type[T], values: dict[str, Any], *, source: str) -> T:
    """Rebuild a configuration stored by `to_dict`; `source` names its file in errors."""
    return _build(Reader(schema, values, source=source))


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain containers, ready for YAML or a checkpoint."""
    return typing.cast(dict[str, Any], _plain(config))


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, in the schema's order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def has_key(schema: type, key: str) -> bool:
    """Whether a schema knows a dotted key (sections only, not items of lists)."""
    return key in dotted_keys(schema)


def _load(schema: Any, file: YamlFile, overrides: Sequence[str], *, only_known: bool) -> Any:
    values = file.merged()
    if only_known:
        known = {field.name for field in dataclasses.fields(schema)}
        values = {key: value for key, value in values.items() if key in known}
    values, overridden = _apply(values, overrides)
    return _build(Reader(schema, values, source=file.holder, overridden=overridden))


def _build(reader: Reader) -> Any:
    config = reader.build()
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def _apply(
    values: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values with the overrides merged in, and the keys that the overrides set."""
    bad = [o for o in overrides if not _OVERRIDE.fullmatch(o)]
    if bad:
        raise ConfigError([f"override {o!r}: write it as dotted.key=value" for o in bad])
    merged = OmegaConf.create(values)
    problems, keys = [], []
    for override in overrides:
        key, text = override.split("=", 1)
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
            new = typing.cast(dict[str, Any], value)["value"]
            OmegaConf.update(merged, key, new, merge=True, force_add=True)
        except (
            yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError
        ) as error:  # fmt: skip
            problems.append(f"override {short_text(override)}: {_one_line(error)}")
        keys.append(key)
    if problems:
        raise ConfigError(problems)
    return typing.cast(dict[str, Any], OmegaConf.to_container(merged)), tuple(keys)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value
