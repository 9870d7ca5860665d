"""docs/TERMINAL.md shows what the command prints today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import terminal_recording

PAGE = Path(__file__).resolve().parents[2] / "docs" / "TERMINAL.md"


def without_measures(text: str) -> list[str]:
    """Lines without what differs between machines: decimals, the bar, a library's own words."""
    text = re.sub(r"^ +\d+ % \|.*$", "BAR", text, flags=re.MULTILINE)
    text = re.sub(r"damaged picture .*$", "damaged picture", text, flags=re.MULTILINE)
    return re.sub(r"\d+\.\d+", "#", text).splitlines()


@pytest.mark.slow
def test_the_page_is_what_a_terminal_shows():
    pytest.importorskip("skimage", reason="scikit-image is missing: pip install -e .[dev]")
    shown = without_measures(terminal_recording.record())
    assert shown == without_measures(PAGE.read_text(encoding="utf-8"))
    assert "BAR" in shown
