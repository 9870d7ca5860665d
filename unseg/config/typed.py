"""Plain values from a file -> typed dataclasses, with every fault found in one pass."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

MISSING = object()

_ACCEPTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_ACCEPTED[Path] = "a path"


class Reader:
    """Builds dataclasses from plain values and collects what is wrong with them.

    Args:
        schema: the outermost dataclass; its keys are candidates for "did you mean".
        values: plain containers, as YAML gives them.
        source: file that the values come from, for messages; or a function that says for a dotted
            key which of several files holds it.
        overridden: dotted keys that come from the command line instead.
    """

    def __init__(
        self,
        schema: type,
        values: dict[str, Any],
        *,
        source: str | Callable[[str], Path],
        overridden: tuple[str, ...] = (),
    ) -> None:
        self.problems: list[str] = []
        self._schema, self._values = schema, values
        self._source, self._overridden = source, overridden

    def build(self) -> Any:
        """The configuration; of use only where `problems` stays empty."""
        return self._section(self._schema, self._values, "")

    def _report(self, key: str, message: str, value: Any = MISSING) -> None:
        is_override = any(key == k or key.startswith(k + ".") for k in self._overridden)
        source = self._source if isinstance(self._source, str) else self._source(key)
        place = "override" if is_override else f"{source}:"
        shown = key if value is MISSING else f"{key}={short_text(value)}"
        self.problems.append(f"{place} {shown}: {message}" if shown else f"{place} {message}")

    def _section(self, schema: Any, values: Any, prefix: str) -> Any:
        if not isinstance(values, dict):
            self._report(prefix, "must be a section of keys", values)
            return None
        before = len(self.problems)
        hints = get_type_hints(schema)
        fields = {f.name: f for f in dataclasses.fields(schema) if f.init}
        for key, value in values.items():
            if key not in fields:
                self._report(join(prefix, str(key)), self._unknown(str(key), fields), value)
        arguments: dict[str, Any] = {}
        for name, field in fields.items():
            key = join(prefix, name)
            if values.get(name, MISSING) == "???":
                self._report(key, "is required; set it")
            elif name in values:
                arguments[name] = self._field(field, hints[name], values[name], key)
            elif is_required(field):
                self._report(key, "is required and has no default; set it")
        if len(self.problems) > before:
            return None
        config = schema(**arguments)
        self._check_meaning(config, set(fields) - set(arguments), prefix)
        return config

    def _check_meaning(self, config: Any, defaulted: set[str], prefix: str) -> None:
        """What types and bounds cannot say: the `problems()` of a section and of its defaults."""
        found = list(own_problems(config, prefix))
        for name in sorted(defaulted):
            found += all_problems(getattr(config, name), join(prefix, name))
        for key, message in found:
            self._report(key, message, _lookup(self._values, key))

    def _unknown(self, key: str, fields: dict[str, Any]) -> str:
        near = difflib.get_close_matches(key, fields, n=1)
        if not near:
            elsewhere = [k for k in dotted_keys(self._schema) if k.rsplit(".", 1)[-1] == key]
            near = elsewhere[:1]
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
        return f"unknown key; {hint}"

    def _field(self, field: dataclasses.Field, hint: Any, value: Any, key: str) -> Any:
        before = len(self.problems)
        converted = self._convert(hint, value, key)
        if len(self.problems) == before:
            self._check_bounds(field, converted, key, found=value)
        return converted

    def _check_bounds(self, field: dataclasses.Field, value: Any, key: str, found: Any) -> None:
        low, high = field.metadata.get("low"), field.metadata.get("high")
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int | float):
                continue
            if (low is not None and item < low) or (high is not None and item > high):
                self._report(key, f"must be {_range_text(low, high)}", found)
                return

    def _convert(self, hint: Any, value: Any, key: str) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in args:
                return None
            return self._union([a for a in args if a is not type(None)], value, key)
        if dataclasses.is_dataclass(hint):
            return self._section(hint, value, key)
        if origin is Literal:
            return self._choice(args, value, key)
        if origin in (tuple, list):
            return self._sequence(args, value, key, is_list=origin is list)
        if origin is dict:
            return self._mapping(args, value, key)
        return self._scalar(hint, value, key)

    def _union(self, options: list[Any], value: Any, key: str) -> Any:
        trials: list[list[str]] = []
        before = len(self.problems)
        for option in options:
            converted = self._convert(option, value, key)
            if len(self.problems) == before:
                return converted
            trials.append(self.problems[before:])
            del self.problems[before:]
        self.problems += _joined(trials) or trials[0]
        return None

    def _choice(self, args: tuple[Any, ...], value: Any, key: str) -> Any:
        for choice in args:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        self._report(key, choice_message(value, args), value)
        return None

    def _sequence(self, args: tuple[Any, ...], value: Any, key: str, *, is_list: bool) -> Any:
        if not isinstance(value, list | tuple):
            self._report(key, "must be a list", value)
            return None
        is_uniform = is_list or (len(args) == 2 and args[1] is Ellipsis)
        hints = [args[0]] * len(value) if is_uniform else list(args)
        if len(hints) != len(value):
            self._report(key, f"must be a list of {len(hints)}", value)
            return None
        pairs = enumerate(zip(hints, value, strict=True))
        items = [self._convert(h, v, join(key, str(i))) for i, (h, v) in pairs]
        return items if is_list else tuple(items)

    def _mapping(self, args: tuple[Any, ...], value: Any, key: str) -> Any:
        if not isinstance(value, dict):
            self._report(key, "must be a section of keys", value)
            return None
        result = {}
        for name, item in value.items():
            full = join(key, str(name))
            plain_name = int(name) if args[0] is int and str(name).isdecimal() else name
            result[self._scalar(args[0], plain_name, full)] = self._convert(args[1], item, full)
        return result

    def _scalar(self, hint: Any, value: Any, key: str) -> Any:
        if isinstance(value, str) and "${" in value:
            self._report(key, "interpolation is not supported; write the value", value)
            return None
        if isinstance(value, str) and "\0" in value:
            self._report(key, "must not hold a NUL character", value.replace("\0", "\\0"))
            return None
        if hint is Any:
            return value
        if isinstance(value, bool) == (hint is bool):
            if hint in (bool, str) and isinstance(value, bool | str):
                return value
            if hint is Path and isinstance(value, str):
                return Path(value)
            if hint is str and isinstance(value, int | float):
                return str(value)
            number = _number(value) if hint in (int, float) else None
            if number is not None and (hint is float or number == int(number)):
                return int(value) if hint is int and isinstance(value, int) else hint(number)
        self._report(key, f"must be {_ACCEPTED.get(hint, str(hint))}", value)
        return None


def choice_message(value: Any, accepted: Iterable[Any]) -> str:
    """What is accepted instead of a value, and the nearest of it."""
    names = [str(choice) for choice in accepted]
    message = f"must be one of {', '.join(names)}"
    near = difflib.get_close_matches(str(value), names, n=1)
    if near:
        return f"{message}; did you mean {near[0]!r}?"
    if isinstance(value, bool):
        message += " (quote it: YAML reads a bare on, off, yes or no as true or false)"
    return message


def is_required(field: dataclasses.Field) -> bool:
    """Whether a dataclass field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def join(prefix: str, key: str) -> str:
    """A dotted key."""
    return ".".join(part for part in (prefix, key) if part)


def dotted_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Every key of a schema and of its sections, sections included; not the items of lists."""
    for name, hint in get_type_hints(schema).items():
        key = join(prefix, name)
        yield key
        for option in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(option) and get_origin(hint) not in (tuple, list, dict):
                yield from dotted_keys(typing.cast(type, option), key)


def own_problems(config: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(full key, message) of what a section's own `problems()` yields."""
    if hasattr(config, "problems"):
        for key, message in config.problems():
            yield join(prefix, key), message


def all_problems(config: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(full key, message) of a section and of everything in it."""
    items: Any = ()
    if dataclasses.is_dataclass(config):
        items = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
        yield from own_problems(config, prefix)
    elif isinstance(config, tuple | list):
        items = enumerate(config)
    elif isinstance(config, dict):
        items = config.items()
    for name, item in items:
        yield from all_problems(item, join(prefix, str(name)))


def _joined(trials: list[list[str]]) -> list[str]:
    """One line for a union of simple types: `must be a number or one of auto`."""
    split = [t[0].split(": must be ", 1) for t in trials if len(t) == 1]
    if len(split) != len(trials) or any(len(s) != 2 or s[0] != split[0][0] for s in split):
        return []
    return [f"{split[0][0]}: must be {' or '.join(s[1] for s in split)}"]


def _range_text(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:g}"
    return f"at most {high:g}" if low is None else f"between {low:g} and {high:g}"


def _number(value: Any) -> float | None:
    """A finite float from a number or from text like `1e-4`."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return MISSING
    return values


def short_text(value: Any) -> str:
    """A value in one line of at most 80 characters."""
    try:
        text = " ".join(str(value).split())
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return "..."
    return text if len(text) <= 80 else text[:77] + "..."
