"""Sections as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unseg.io.files import atomic_write_bytes
from unseg.utils.errors import UserError
from unseg.victims.report.elements import Section

ASSETS = Path(__file__).parents[2] / "assets"


def need_page_packages() -> None:
    """Say what is missing before any work.

    Raises:
        UserError: matplotlib or jinja2 is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        if find_spec(name) is None:
            raise UserError(
                f"the report needs the package {name!r}; install the extra: "
                "pip install 'unseg[eval]'"
            )


def rendered(template: str, **values: Any) -> str:
    """A template of the package's assets, filled in; words are escaped."""
    need_page_packages()
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = (ASSETS / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**values)


def write_page(path: Path, *, title: str, sections: Sequence[Section]) -> None:
    """Write a page that needs no other file."""
    text = rendered("report.html", title=title, sections=sections)
    atomic_write_bytes(path, text.encode())
