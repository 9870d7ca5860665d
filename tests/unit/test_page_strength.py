"""The strength that the page starts with, and that its sentence says what the card says."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from unseg.models.embedded import EMBEDDED
from unseg.page.strength import UNMEASURED, first_strength


def scores(row: str) -> dict[str, float]:
    """Column -> score, of the first row of the pattern's card that begins so."""
    card = (resources.files("unseg") / "assets" / "pattern.md").read_text(encoding="utf-8")
    header = next(line for line in card.splitlines() if line.startswith("| selected epoch"))
    found = next(line for line in card.splitlines() if line.startswith(f"| {row} |"))
    names, values = (line.strip("| ").split(" | ") for line in (header, found))
    numbers = {n: re.search(r"\d+\.\d", v) for n, v in zip(names, values, strict=True)}
    return {name: float(number[0]) for name, number in numbers.items() if number}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("Kvasir-SEG", "`pattern` at 4/0"),
        ("VOC 2012 foreground", "`pattern` at 4/0"),
        ("HumanSeg", "`pattern` at 4/0"),
        ("WeizmannHorse", "`pattern` at 4/0"),
        ("HumanSeg", "`pattern`"),
        ("WeizmannHorse", "`pattern`"),
    ],
)
def test_the_patterns_sentence_has_the_numbers_of_its_card(row, column):
    found = scores(row)
    lost = 100 * (1 - found[column] / found["clean"])
    assert f"{lost:.0f} %" in first_strength("pattern").note


def test_every_generator_starts_where_it_was_measured_and_others_say_that_they_were_not():
    starts = {name: first_strength(name) for name in EMBEDDED}
    assert (starts["pattern"].epsilon, starts["pattern"].epsilon_bg) == (4, 0)
    assert UNMEASURED not in starts.values()
    assert first_strength("work_dirs/mine.safetensors") is UNMEASURED
    for strength in (*starts.values(), UNMEASURED):
        assert strength.epsilon_bg <= strength.epsilon
        assert strength.note.count(". ") == 0
