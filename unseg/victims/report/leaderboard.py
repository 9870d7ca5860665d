"""A leaderboard from its rows: one static page and one Markdown file, the same bytes each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.config.board import BoardRow, BoardScore
from unseg.config.evaluate import CLEAN
from unseg.config.load import to_dict
from unseg.io.files import atomic_write
from unseg.utils.errors import UserError
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.report.elements import NOTHING
from unseg.victims.report.heat import HeatMap
from unseg.victims.report.page import ASSETS, rendered
from unseg.victims.report.rows import ROWS, broken_by, by_place, read_rows
from unseg.victims.report.summary import heat_maps, worst_of

PAGE, PLAIN = "index.html", "README.md"
TITLE = "Unlearnable pictures for segmentation: leaderboard"
INTRODUCTION = (
    "A trainer takes the published pictures, trains a victim on them, and is scored on clean test "
    "pictures. Low scores mean protected. Protection is (clean - selected) / (clean - floor): 1 is "
    "full, 0 is none. 'Selected' is the epoch that published validation pictures choose, 'peak' "
    "the epoch that is best on the clean test. 'Worst' is the lowest protection over the defences "
    "that were measured for that row, no defence included. Scores are percent, mean and sample "
    "standard deviation over seeds. A star marks a clean twin that trained without the defence."
)
SUBMIT = (
    "Protect the training pictures of a data set with your own program and keep their names.",
    'Write entry.json beside them: {"schema": 1, "title": "...", "authors": "...", "url": "...", '
    '"epsilon": 8, "epsilon_bg": 2}',
    "Measure: unseg evaluate configs/benchmark/entry.yaml methods.entry.train_root=YOUR_FOLDER",
    "Add the rows: unseg leaderboard docs/leaderboard --add work_dirs/benchmark/entry",
    "Open a pull request with the new files of docs/leaderboard/rows. A row without a command and "
    "a commit is marked 'reported'.",
)
COLUMNS = (
    ("data", True), ("victim", True), ("trained on", True), ("defence", True), ("selected", False),
    ("peak", False), ("own test", False), ("clean", False), ("protection", False),
    ("at peak", False), ("worst", False), ("PSNR", False), ("seeds", False), ("kind", True),
    ("broken by", True),
)  # fmt: skip
"""(heading, whether it holds words)."""


@dataclass(frozen=True)
class BoardCell:
    """A cell of the page's table.

    Attributes:
        text: what is shown.
        key: what it sorts by; empty for no value.
    """

    text: str
    key: str


@dataclass(frozen=True)
class BoardLine:
    """A line of the page's table.

    Attributes:
        row: behind it.
        cells: one for each column.
    """

    row: BoardRow
    cells: tuple[BoardCell, ...]


def add_runs(folder: Path, runs: Sequence[Path]) -> int:
    """Copy the rows of evaluations into a leaderboard; returns how many.

    Raises:
        UserError: a run has no rows, or they are damaged.
    """
    count = 0
    (folder / ROWS).mkdir(parents=True, exist_ok=True)
    for run in runs:
        if not read_rows(run / ROWS):
            raise UserError(f"{run}: holds no {ROWS}/*.json of unseg evaluate")
        for path in sorted((run / ROWS).glob("*.json")):
            shutil.copyfile(path, folder / ROWS / path.name)
            count += 1
    return count


def write_leaderboard(folder: Path) -> tuple[Path, int]:
    """Write the page and the Markdown of a leaderboard.

    Returns:
        Path of the page, number of rows.

    Raises:
        UserError: no rows, damaged ones, or the extra is missing.
    """
    rows = sorted(read_rows(folder / ROWS), key=_order)
    if not rows:
        raise UserError(f"{folder}: holds no {ROWS}/*.json; add some: --add RUN_DIR")
    lines = [_line(row, place) for row, place in by_place(rows)]
    maps = heat_maps(rows)
    page = rendered(
        "leaderboard.html",
        title=TITLE,
        introduction=INTRODUCTION,
        columns=COLUMNS,
        lines=lines,
        maps=maps,
        steps=SUBMIT,
        choices=_choices(rows),
        rows=_embedded(rows),
        script=(ASSETS / "leaderboard.js").read_text(encoding="utf-8"),
    )
    for name, text in ((PAGE, page), (PLAIN, _markdown(lines, maps))):
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    return folder / PAGE, len(rows)


def _order(row: BoardRow) -> tuple[Any, ...]:
    """By set, victim, defence; within them clean first, then the strongest."""
    is_other = row.method.name != CLEAN
    strength = -(row.protection if row.protection is not None else 0.0)
    place = (row.data.name, row.victim.title, row.defence != NO_DEFENCE, row.defence)
    return (*place, row.clean_share, is_other, strength, row.id)


def _line(row: BoardRow, place: Sequence[BoardRow]) -> BoardLine:
    worst = worst_of(place) if row.defence == NO_DEFENCE else None
    title = row.method.title
    if row.clean_share:
        title += f" + {100 * row.clean_share:g} % clean"
    mark = "" if row.is_clean_defended or row.method.name == CLEAN else "*"
    broken = tuple(dict.fromkeys((*row.broken_by, *broken_by(row, place))))
    cells = (
        *(BoardCell(text, text.lower()) for text in (row.data.name, row.victim.title)),
        *(BoardCell(text, text.lower()) for text in (title, row.defence)),
        *(_score(score) for score in (row.selected, row.peak, row.own, row.clean)),
        _number(row.protection, "{:z.2f}" + mark),
        _number(row.peak_protection, "{:z.2f}" + mark),
        _number(worst.protection if worst else None, "{:z.2f}"),
        _number(row.method.psnr, "{:.1f}"),
        BoardCell(str(len(row.seeds) or NOTHING), str(len(row.seeds))),
        BoardCell(row.kind, row.kind),
        BoardCell(", ".join(broken), ", ".join(broken)),
    )
    return BoardLine(row, cells)


def _score(score: BoardScore | None) -> BoardCell:
    if score is None:
        return BoardCell(NOTHING, "")
    text = f"{100 * score.mean:.1f}"
    if score.std is not None:
        text += f" ± {100 * score.std:.1f}"
    return BoardCell(text, f"{score.mean:.6f}")


def _number(value: float | None, form: str) -> BoardCell:
    if value is None:
        return BoardCell(NOTHING, "")
    return BoardCell(form.format(value), f"{value:.6f}")


def _choices(rows: Sequence[BoardRow]) -> dict[str, list[str]]:
    """What the page's filters offer: by the number of their column."""
    return {
        "data": sorted({row.data.name for row in rows}),
        "victim": sorted({row.victim.title for row in rows}),
        "defence": sorted({row.defence for row in rows}),
        "kind": sorted({row.kind for row in rows}),
    }


def _embedded(rows: Sequence[BoardRow]) -> str:
    """The rows for the page's script; no text of theirs can end the script or be a tag."""
    text = json.dumps([to_dict(row) for row in rows], ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _markdown(lines: Sequence[BoardLine], maps: Sequence[tuple[str, HeatMap]]) -> str:
    text = [
        f"# {TITLE}",
        f"Made by `unseg leaderboard` from [{ROWS}/]({ROWS}); [{PAGE}]({PAGE}) is the same with "
        "sorting, filters and curves. Do not edit it: edit the rows.",
        INTRODUCTION,
        "## Protection by attack and defence",
    ]
    for title, heat in maps:
        text += [f"### {title}", _escaped(heat.markdown())]
    text.append("## Rows")
    rule = ["---" if is_text else "---:" for _, is_text in COLUMNS]
    table = [[name for name, _ in COLUMNS], rule, *[[c.text for c in line.cells] for line in lines]]
    text.append(_escaped("\n".join("| " + " | ".join(line) + " |" for line in table)))
    text += ["## How to submit", "\n".join(f"{i}. {_code(s)}" for i, s in enumerate(SUBMIT, 1))]
    return "\n\n".join(text) + "\n"


def _code(step: str) -> str:
    """A step whose command or JSON is set as code."""
    words, colon, command = step.partition(": ")
    return f"{words}: `{command}`" if colon else words


def _escaped(table: str) -> str:
    """Titles come from others: no tags, links or pictures in them."""
    return table.replace("<", "&lt;").replace("[", "\\[")
