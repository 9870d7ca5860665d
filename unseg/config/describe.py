"""The keys of a configuration as help text, from the schema and the notes under its fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from unseg.config.typed import join

WIDTH = 96


def describe(schema: type) -> str:
    """Every key with its default and note, in the schema's order, one paragraph each."""
    return "\n".join(_lines(schema, ""))


def field_notes(schema: type) -> dict[str, str]:
    """Name of a field -> the documentation string under it; fields without one are missing."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(schema)))
    except (OSError, TypeError):
        return {}
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    notes = {}
    for field, note in zip(body, body[1:], strict=False):
        match field, note:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                notes[name] = " ".join(text.split())
    return notes


def _lines(schema: type, prefix: str) -> Iterator[str]:
    hints = get_type_hints(schema)
    notes = {k: v for base in reversed(schema.__mro__) for k, v in field_notes(base).items()}
    for field in dataclasses.fields(schema):
        key = join(prefix, field.name)
        options = [o for o in (hints[field.name], *get_args(hints[field.name]))]
        section = next((o for o in options if dataclasses.is_dataclass(o)), None)
        text = notes.get(field.name, "")
        if section is None:
            yield f"  {key}{_default(field)}"
        elif text:
            yield f"  {key}"
        if text:
            yield textwrap.fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        if isinstance(section, type):
            is_list = hints[field.name] is not section and Ellipsis in options
            yield from _lines(section, f"{key}.N" if is_list else key)


def _default(field: dataclasses.Field) -> str:
    value: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return " (required)"
    return f" = {list(value) if isinstance(value, tuple) else value}"
