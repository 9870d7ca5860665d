"""What a proof found, in words and as a page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unseg.io.files import atomic_write
from unseg.victims.grid.proof_pictures import STATES
from unseg.victims.grid.prove import FEWEST_PICTURES, FOLDS, VICTIMS, Proof
from unseg.victims.report import figures
from unseg.victims.report.elements import Figure, Part, Section, Table, Text, aligned
from unseg.victims.report.heat import HeatMap, heat_cell
from unseg.victims.report.page import write_page

LEARNS = 0.2
"""A clean victim below this IoU has not learnt enough to say what protection takes."""
NOTHING_LEFT, PARTLY, STRONG = 0.1, 0.5, 0.8
_T = 2.92
"""Student's t of three folds, one-sided 95 %."""
_STATE_TITLES = {"clean": "clean", "protected": "protected", "control": "untrained tile"}
HOW = (
    "Each victim learns from two thirds of the pictures, with sizes varied by 0.5 to 2, flips, "
    "crops, brightness and contrast, and is tested on the clean last third: {folds} times, so that "
    "every picture is tested once. Scores are IoU of the object in percent, mean and standard "
    "deviation over these folds. Protection is (clean - protected) / clean. 'Selected' is the "
    "epoch chosen on pictures in the state that was learnt from; 'peak' is the best epoch on the "
    "clean test, which only a trainer with clean pictures can choose. The untrained tile is a "
    "random pattern at {inside:g}/{outside:g} grey levels: what does not beat it owes nothing to "
    "training. Small victims and few pictures: a larger trainer may find more."
)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the numbers among some values; NaN for none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan


def verdict(proof: Proof, victim: str) -> str:
    """One sentence: what the protection is worth against a victim, or that it cannot be told."""
    clean, _ = spread([one.selected for one in proof.trained[victim, "clean"]])
    title = VICTIMS[victim].title
    if clean < LEARNS:
        return (
            f"{title}: cannot tell; it learns too little from the clean pictures "
            f"({100 * clean:.1f} % IoU)."
        )
    mean, std = spread(proof.protection(victim, "protected"))
    peak, _ = spread(proof.protection(victim, "protected", at_peak=True))
    margin = _T * std / math.sqrt(FOLDS)
    found = f"{mean:z.2f} ± {std:z.2f}, at its peak {peak:z.2f}"
    if mean - margin <= 0 < mean + margin and mean >= NOTHING_LEFT:
        return f"{title}: cannot tell; the folds differ too much ({found})."
    if mean < NOTHING_LEFT:
        return f"{title}: no protection ({found})."
    word = "strong" if mean >= STRONG else "partial" if mean >= PARTLY else "weak"
    return f"{title}: {word} protection ({found})."


def sentences(proof: Proof) -> list[str]:
    """The summary: a sentence for each victim, the worst case, and the control."""
    count = proof.num_pictures
    if not proof.trained:
        return [
            f"Too few pictures to tell: {count} with a mask, at least {FEWEST_PICTURES} are needed."
        ]
    lines = [verdict(proof, victim) for victim in proof.victims]
    means = {v: spread(proof.protection(v, "protected"))[0] for v in proof.victims}
    peaks = {v: spread(proof.protection(v, "protected", at_peak=True))[0] for v in proof.victims}
    known = [v for v in means if not math.isnan(means[v])]
    if known:
        worst = min(known, key=lambda v: means[v])
        lines.append(
            f"Worst case: {means[worst]:z.2f} ({VICTIMS[worst].title}); with the best epoch "
            f"{min(peaks[v] for v in known):z.2f}."
        )
    lines.append(_beside_control(proof))
    return lines


def _beside_control(proof: Proof) -> str:
    """Whether the protection beats what costs nothing."""
    parts = []
    for victim in proof.victims:
        own, control = (proof.protection(victim, state) for state in ("protected", "control"))
        gain, std = spread([a - b for a, b in zip(own, control, strict=True)])
        if math.isnan(gain):
            continue
        margin = _T * std / math.sqrt(FOLDS)
        word = "more than" if gain > 0 else "less than"
        if abs(gain) <= margin:
            word = "as much as" if abs(gain) < NOTHING_LEFT else "the folds cannot tell it from"
        parts.append(f"{VICTIMS[victim].title}: {word} the tile ({spread(control)[0]:z.2f})")
    inside, outside = proof.budget
    note = "" if proof.is_budget_known else ", a guess: no manifest says yours"
    told = "; ".join(parts) or "cannot tell"
    return f"Beside an untrained tile at {inside:g}/{outside:g}{note}. {told}."


def table(proof: Proof) -> Table:
    """A line for each victim and state."""
    header = ("victim", "learnt from", "selected", "peak", "own test", "protection", "at peak")
    lines = []
    for victim, state in proof.trained:
        results = proof.trained[victim, state]
        scores = [[getattr(r, name) for r in results] for name in ("selected", "peak", "own")]
        values = [
            "–" if state == "clean" else _shown(proof.protection(victim, state, at_peak=at_peak))
            for at_peak in (False, True)
        ]
        names = (VICTIMS[victim].title, _STATE_TITLES[state])
        lines.append((*names, *(_shown(s, factor=100, digits=1) for s in scores), *values))
    return Table(header, lines, num_text=2)


def _shown(values: Sequence[float], *, factor: float = 1, digits: int = 2) -> str:
    mean, std = spread(values)
    if math.isnan(mean):
        return "–"
    text = f"{factor * mean:.{digits}f}"
    return text if math.isnan(std) else f"{text} ± {factor * std:.{digits}f}"


def text_lines(proof: Proof) -> list[str]:
    """For a terminal: the table, then the sentences."""
    lines = []
    if proof.trained:
        found = table(proof)
        lines = aligned([found.header, *found.rows])
    return [*lines, *words(proof)]


def words(proof: Proof) -> list[str]:
    """What a reader is told without a table: what was left out, then the sentences."""
    if not proof.num_without:
        return sentences(proof)
    left_out = f"{proof.num_without} pictures have no mask of an object and are left out."
    return [left_out, *sentences(proof)]


def sections(proof: Proof) -> list[Section]:
    """The page of a proof."""
    parts: list[Part] = [Text(line) for line in sentences(proof)]
    if not proof.trained:
        return [Section("Summary", parts)]
    states = [state for state in STATES if state != "clean"]
    rows = [
        (
            VICTIMS[victim].title,
            [
                _heat(proof.protection(victim, state, at_peak=at_peak))
                for state in states
                for at_peak in (False, True)
            ],
        )
        for victim in proof.victims
    ]
    columns = [f"{_STATE_TITLES[s]}{peak}" for s in states for peak in ("", ", at peak")]
    parts.insert(0, HeatMap("victim", columns, rows))
    inside, outside = proof.budget
    how = HOW.format(folds=FOLDS, inside=inside, outside=outside)
    curves = [
        Figure(f"curve_{victim}", f"clean-test score by epoch, {VICTIMS[victim].title}",
               _curve(proof, victim))
        for victim in proof.victims
    ]  # fmt: skip
    return [
        Section("Summary", parts),
        Section("Scores", [Text(how), table(proof)]),
        Section("Clean-test score by epoch", curves),
    ]


def _heat(values: Sequence[float]) -> Any:
    mean, _ = spread(values)
    return heat_cell(None if math.isnan(mean) else mean)


def _curve(proof: Proof, victim: str) -> bytes:
    lines = {}
    for state in STATES:
        folds = [one.curve for one in proof.trained[victim, state]]
        lines[_STATE_TITLES[state]] = [
            (points[0][0], 100 * statistics.fmean(score for _, score in points))
            for points in zip(*folds, strict=False)
        ]
    title = VICTIMS[victim].title
    return figures.curves(lines, title=title, x_label="epoch", y_label="clean test (%)")


def write_proof(proof: Proof, page: Path, *, origin: dict[str, Any]) -> dict[str, Any]:
    """Write the page of a proof, and beside it the numbers as JSON.

    Returns:
        The numbers.

    Raises:
        UserError: the extra [eval] is missing, or the folder is not writable.
    """
    write_page(page, title="Proof on your own pictures", sections=sections(proof))
    content = {
        "schema": 1,
        **{k: v for k, v in asdict(proof).items() if k != "trained"},
        "trained": [
            {"victim": victim, "learnt_from": state, "folds": [asdict(one) for one in results]}
            for (victim, state), results in proof.trained.items()
        ],
        "sentences": sentences(proof),
        "run": origin,
    }
    with atomic_write(page.with_suffix(".json"), "w") as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
    return content
