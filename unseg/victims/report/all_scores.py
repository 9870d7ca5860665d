"""The section of all scores beside the one that tables show: parts of PQ, AP by size, and so on."""

from __future__ import annotations

from collections.abc import Iterator

from unseg.config.evaluate import DENSE_TASKS, EvaluateConfig
from unseg.victims.report.aggregate import ScoreRow
from unseg.victims.report.elements import (
    NOTHING,
    Part,
    Section,
    Table,
    Text,
    method_title,
    percent,
    victim_title,
)


def all_scores_section(rows: list[ScoreRow], config: EvaluateConfig) -> Iterator[Section]:
    """Nothing where every data set's label is a map of classes."""
    parts: list[Part] = []
    for data in dict.fromkeys(row.key.data for row in rows):
        found = [row for row in rows if row.key.data == data and row.further]
        names = list(dict.fromkeys(name for row in found for name in row.further))
        if config.data[data].task in DENSE_TASKS or not names:
            continue
        header = ("victim", "defence", "training pictures", *(n.replace("_", " ") for n in names))
        lines = [
            (
                victim_title(config, row.key.victim),
                row.key.defence,
                method_title(config, row.key),
                *(percent(row.further[n]) if n in row.further else NOTHING for n in names),
            )
            for row in found
        ]
        parts += [Text(data, "heading"), Table(header, lines, num_text=3)]
    if parts:
        note = "On clean test pictures, of the selected epoch, in percent."
        yield Section("Further scores", [Text(note), *parts])
