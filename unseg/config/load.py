"""YAML + `dotted.key=value` overrides -> a frozen, typed, checked dataclass.

OmegaConf reads and merges; the typing is done here so that every fault of a file is reported at
once, each with its full key, the value found, what is accepted, and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseg.utils.errors import ConfigError

T = TypeVar("T")
_MISSING = object()


def bounded(default: Any = _MISSING, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field whose number must lie in [low, high]."""
    metadata = {"low": low, "high": high}
    if default is _MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_config(schema: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Configuration of type `schema` from a YAML file and dotted overrides.

    A dataclass of the schema may define `problems(self) -> Iterator[tuple[str, str]]`, yielding
    (key relative to itself, message) for what types and bounds cannot say.

    Args:
        schema: a frozen, keyword-only dataclass, nested ones included.
        path: YAML file, or None for defaults and overrides alone.
        overrides: `dotted.key=value`; the value is read as YAML.

    Raises:
        ConfigError: with one line for every fault of the file and the overrides.
    """
    merged, sources = _merge(path, overrides)
    problems: list[str] = []
    config = _build(schema, merged, "", problems, sources)
    if not problems:
        problems += [
            _line(key, message, sources, value=_lookup(merged, key))
            for key, message in _problems_of(config, "")
        ]
    if problems:
        raise ConfigError(problems)
    return typing.cast(T, config)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain containers, ready for YAML or a checkpoint."""
    return typing.cast(dict[str, Any], _plain(config))


def from_dict(schema: type[T], values: dict[str, Any], *, source: str) -> T:
    """Rebuild a configuration stored by `to_dict`; `source` names its file in errors."""
    problems: list[str] = []
    config = _build(schema, values, "", problems, {"": source})
    if problems:
        raise ConfigError(problems)
    return typing.cast(T, config)


def has_key(schema: type, key: str) -> bool:
    """Whether a schema knows a dotted key (sections only, not items of lists)."""
    first, _, rest = key.partition(".")
    hint = get_type_hints(schema).get(first) if dataclasses.is_dataclass(schema) else None
    if hint is None:
        return False
    return not rest or (isinstance(hint, type) and has_key(hint, rest))


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, in the schema's order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _merge(
    path: str | Path | None, overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merged plain values, and which keys came from the command line ("" names the file)."""
    sources = {"": str(path) if path is not None else "defaults"}
    merged: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        if not path.is_file():
            raise ConfigError([f"{path}: no such configuration file"])
        try:
            loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError([f"{path}: not readable as YAML: {reason}"]) from None
        if not isinstance(loaded, dict):
            raise ConfigError([f"{path}: must hold `key: value` pairs"])
        merged = typing.cast(dict[str, Any], loaded)
    bad = [
        f"override {o!r}: write it as dotted.key=value"
        for o in overrides
        if "=" not in o.lstrip("=")
    ]
    if bad:
        raise ConfigError(bad)
    for override in overrides:
        try:
            part = OmegaConf.from_dotlist([override])
            merged = typing.cast(
                dict[str, Any], OmegaConf.to_container(OmegaConf.merge(merged, part), resolve=True)
            )
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            reason = " ".join(str(error).split())
            raise ConfigError([f"override {override!r}: {reason}"]) from None
        sources[override.split("=", 1)[0]] = "override"
    return merged, sources


def _line(key: str, message: str, sources: dict[str, str], *, value: Any = _MISSING) -> str:
    from_override = any(k and (key == k or key.startswith(k + ".")) for k in sources)
    place = "override" if from_override else f"{sources['']}:"
    shown = key if value is _MISSING else f"{key}={value}"
    return f"{place} {shown}: {message}"


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return _MISSING
        values = values[part]
    return values


def _problems_of(config: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            yield from _problems_of(getattr(config, field.name), _join(prefix, field.name))
        if hasattr(config, "problems"):
            for key, message in config.problems():
                yield _join(prefix, key), message
    elif isinstance(config, tuple):
        for i, item in enumerate(config):
            yield from _problems_of(item, _join(prefix, str(i)))
    elif isinstance(config, dict):
        for name, item in config.items():
            yield from _problems_of(item, _join(prefix, str(name)))


def _join(prefix: str, key: str) -> str:
    return ".".join(part for part in (prefix, key) if part)


def _build(
    schema: Any, values: Any, prefix: str, problems: list[str], sources: dict[str, str]
) -> Any:
    if not isinstance(values, dict):
        problems.append(_line(prefix, "must be a section of keys", sources, value=values))
        return None
    hints = get_type_hints(schema)
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            full = _join(prefix, str(key))
            problems.append(_line(full, f"unknown key; {hint}", sources, value=values[key]))
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        key = _join(prefix, name)
        if name in values:
            converted = _convert(hints[name], values[name], key, problems, sources)
            _check_bounds(field, converted, key, problems, sources)
            arguments[name] = converted
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(_line(key, "is required and has no default; set it", sources))
    if any(name not in arguments and _is_required(f) for name, f in fields.items()):
        return None
    return schema(**arguments)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _check_bounds(
    field: dataclasses.Field, value: Any, key: str, problems: list[str], sources: dict[str, str]
) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if (low is not None and value < low) or (high is not None and value > high):
        if high is None:
            accepted = f"at least {low:g}"
        else:
            accepted = f"at most {high:g}" if low is None else f"between {low:g} and {high:g}"
        problems.append(_line(key, f"must be {accepted}", sources, value=value))


def _convert(hint: Any, value: Any, key: str, problems: list[str], sources: dict[str, str]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert_union(
            [a for a in args if a is not type(None)], value, key, problems, sources
        )
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, key, problems, sources)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
        message = f"must be one of {', '.join(map(str, args))}"
        message += f"; did you mean {near[0]!r}?" if near else ""
        problems.append(_line(key, message, sources, value=value))
        return None
    if origin is tuple:
        return _convert_tuple(args, value, key, problems, sources)
    if origin is dict:
        if not isinstance(value, dict):
            problems.append(_line(key, "must be a section of keys", sources, value=value))
            return None
        return {
            str(k): _convert(args[1], v, _join(key, str(k)), problems, sources)
            for k, v in value.items()
        }
    return _convert_scalar(hint, value, key, problems, sources)


def _convert_union(
    options: list[Any], value: Any, key: str, problems: list[str], sources: dict[str, str]
) -> Any:
    first: list[str] = []
    for option in options:
        trial: list[str] = []
        converted = _convert(option, value, key, trial, sources)
        if not trial:
            return converted
        first = first or trial
    problems.extend(first)
    return None


def _convert_tuple(
    args: tuple[Any, ...], value: Any, key: str, problems: list[str], sources: dict[str, str]
) -> Any:
    if not isinstance(value, list | tuple):
        problems.append(_line(key, "must be a list", sources, value=value))
        return None
    hints = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
    if len(hints) != len(value):
        problems.append(_line(key, f"must be a list of {len(hints)}", sources, value=value))
        return None
    return tuple(
        _convert(h, v, f"{key}.{i}", problems, sources)
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )


def _convert_scalar(
    hint: Any, value: Any, key: str, problems: list[str], sources: dict[str, str]
) -> Any:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint is Any:
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    accepted = names.get(hint, str(hint))
    problems.append(_line(key, f"must be {accepted}", sources, value=value))
    return None


def _number(value: Any) -> float | None:
    """A float from a number or from text like `1e-4`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
