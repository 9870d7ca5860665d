"""The section of mixtures: what a share of clean pictures gives back, what the rest is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unseg.config.evaluate import CLEAN, EvaluateConfig
from unseg.victims.report import figures
from unseg.victims.report.aggregate import ScoreRow
from unseg.victims.report.elements import (
    NOTHING,
    Figure,
    Part,
    Section,
    Table,
    Text,
    method_title,
    number,
    percent,
    victim_title,
)


def mixture_section(rows: list[ScoreRow], config: EvaluateConfig) -> Iterator[Section]:
    """Nothing where the grid has no mixture."""
    mixed = [row for row in rows if row.key.clean_share and not row.key.is_twin and row.selected]
    if not mixed:
        return
    header = (
        "data", "victim", "defence", "protected part", "clean share",
        "mixture", "its peak", "clean part alone", "marginal value of the protected part",
    )  # fmt: skip
    lines = [line for row in sorted(mixed, key=_place) for line in _mixture_rows(row, rows, config)]
    note = (
        "The rest of the pictures is protected: 0 % is the plain protected set, 100 % the clean "
        "one. 'Clean part alone' trained on the same clean pictures without the protected ones, "
        "for as many steps."
    )
    parts: list[Part] = [Text(note), Table(header, lines, num_text=4)]
    for data, victim in dict.fromkeys((row.key.data, row.key.victim) for row in mixed):
        lines_of = _mixture_lines(
            [
                r
                for r in rows
                if (r.key.data, r.key.victim, r.key.defence) == (data, victim, "none")
            ],
            config,
        )
        if lines_of:
            picture = figures.curves(
                lines_of,
                title=f"{data}, {victim_title(config, victim)}",
                x_label="share of clean pictures (%)",
                y_label="clean test (%)",
            )
            parts.append(Figure(f"mixture_{data}_{victim}", f"mixtures of {data}", picture))
    yield Section("Mixtures of clean and protected pictures", parts)


def _place(row: ScoreRow) -> tuple[Any, ...]:
    """What the mixtures of one protected set share, then the share."""
    key = row.key
    budget = (key.epsilon, key.epsilon_bg)
    return (key.data, key.victim, key.method, key.defence, budget, key.clean_share)


def _mixture_rows(
    row: ScoreRow, rows: list[ScoreRow], config: EvaluateConfig
) -> Iterator[tuple[str, ...]]:
    """A line for a mixture; its set's first one brings that of 0 %, the last one that of 100 %."""
    family = [r for r in rows if _place(r)[:-1] == _place(row)[:-1] and r.selected]
    family = sorted((r for r in family if not r.key.is_twin), key=_place)
    names = (
        row.key.data,
        victim_title(config, row.key.victim),
        row.key.defence,
        method_title(config, row.key, with_share=False),
    )
    shares = [r.key.clean_share for r in family]
    if shares[0] == 0 and shares[1] == row.key.clean_share:
        yield (
            *names,
            "0 %",
            percent(family[0].selected),
            percent(family[0].best),
            NOTHING,
            NOTHING,
        )
    yield (
        *names,
        f"{100 * row.key.clean_share:g} %",
        percent(row.selected),
        percent(row.best),
        percent(row.clean_part),
        number(row.marginal, lambda v: f"{100 * v:+z.1f}"),
    )
    if row.key.clean_share == shares[-1] and row.clean is not None and row.is_clean_defended:
        peak = percent(row.clean_best)
        yield (*names, "100 %", percent(row.clean), peak, percent(row.clean), NOTHING)


def _mixture_lines(
    rows: list[ScoreRow], config: EvaluateConfig
) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    clean = next((r for r in rows if r.key.method == CLEAN and not r.key.is_twin), None)
    for row in rows:
        if row.selected is None or row is clean:
            continue
        name = "clean part alone" if row.key.is_twin else method_title(config, row.key, False)
        lines.setdefault(name, []).append((100 * row.key.clean_share, 100 * row.selected.mean))
    if clean is not None and clean.selected is not None:
        for points in lines.values():
            points.append((100.0, 100 * clean.selected.mean))
    return {name: sorted(points) for name, points in lines.items() if len(points) > 1}
