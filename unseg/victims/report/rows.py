"""Results as data: one JSON file a row, written by evaluations and read by leaderboards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unseg.config.board import (
    BoardData,
    BoardMethod,
    BoardRow,
    BoardRun,
    BoardScore,
    BoardVictim,
    EntryCard,
)
from unseg.config.evaluate import CLEAN, EvaluateConfig
from unseg.config.load import from_dict, to_dict
from unseg.io.files import atomic_write, sha256_file
from unseg.utils.errors import ConfigError, UserError
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.grid.cells import ASSETS, fingerprint, has_budget, read_json
from unseg.victims.report.aggregate import (
    Change,
    Key,
    Result,
    ScoreRow,
    Spread,
    changes,
    collect,
)
from unseg.victims.report.elements import method_title, victim_title
from unseg.victims.report.entries import entry_card

ROWS = "rows"
"""Folder of the rows in a run directory and in a leaderboard."""
BROKEN = 0.5
"""A defence breaks a protection that it brings below this share."""
_DIGITS = 6


def write_rows(config: EvaluateConfig) -> list[BoardRow]:
    """Write the finished rows of a grid into `rows/` of its run directory, and nothing else there.

    Returns:
        The rows.
    """
    rows = board_rows(config)
    folder = Path(config.run_dir) / ROWS
    folder.mkdir(parents=True, exist_ok=True)
    kept = {write_row(row, folder).name for row in rows}
    for stale in folder.glob("*.json"):
        if stale.name not in kept:
            stale.unlink(missing_ok=True)  # several ranks do this
    return rows


def write_row(row: BoardRow, folder: Path) -> Path:
    """Write one row as `ID.json`."""
    path = folder / f"{row.id}.json"
    with atomic_write(path, "w") as file:
        json.dump(to_dict(row), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    return path


def read_rows(folder: Path) -> list[BoardRow]:
    """All rows of a folder, by file name.

    Raises:
        UserError: with a line for every file that is no row, or whose name is not its id.
    """
    rows, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            if not isinstance(content, dict):
                raise UserError(f"{path}: is no row of a leaderboard (docs/BENCHMARK.md)")
            row = from_dict(BoardRow, content, source=str(path))
            if row.id != path.stem:
                raise UserError(f"{path}: id={row.id!r} is not the file's name")
        except (UserError, ConfigError) as error:
            problems.append(str(error))
            continue
        rows.append(row)
    if problems:
        raise UserError("\n".join(problems))
    return rows


def board_rows(config: EvaluateConfig) -> list[BoardRow]:
    """The finished rows of a grid as data, in its order; clean parts of mixtures are in theirs."""
    found, results = collect(config)
    changed = {(c.data, c.method, c.epsilon, c.epsilon_bg): c for c in changes(config)}
    rows = [
        _board_row(row, results[row.key], changed, config)
        for row in found
        if row.selected is not None and not row.key.is_twin
    ]
    return [replace(row, broken_by=broken_by(row, rows)) for row in rows]


def broken_by(row: BoardRow, rows: Iterable[BoardRow]) -> tuple[str, ...]:
    """Defences among `rows` that bring this row's protection of `BROKEN` or more below it."""
    if row.defence != NO_DEFENCE or row.protection is None or row.protection < BROKEN:
        return ()
    return tuple(
        other.defence
        for other in rows
        if place_of(other) == place_of(row)
        and other.protection is not None
        and other.protection < BROKEN
    )


def place_of(row: BoardRow) -> tuple[Any, ...]:
    """What rows share that differ in their defence alone."""
    method = row.method
    budget = (method.epsilon, method.epsilon_bg)
    names = (row.data.name, row.victim.name, row.victim.title)
    return (*names, method.name, method.title, *budget, row.clean_share)


def _board_row(
    row: ScoreRow,
    results: Sequence[Result],
    changed: dict[tuple[Any, ...], Change],
    config: EvaluateConfig,
) -> BoardRow:
    key, first = row.key, results[0]
    is_clean = key.method == CLEAN
    victim = config.victims[key.victim]
    body = BoardRow(
        schema=1,
        id="-",
        kind="measured",
        data=BoardData(
            name=key.data,
            task=config.data[key.data].task,
            metric=row.metric,
            floor=_rounded(row.floor) or 0.0,
            num_train=first["num_train"],
            num_validation=first["num_validation"],
            num_test=first["num_test"],
            protect_size=config.data[key.data].protect_size,
        ),
        method=_method(key, changed, config),
        victim=BoardVictim(
            name=key.victim,
            title=victim_title(config, key.victim),
            arch=victim.arch,
            weights=victim.weights,
            recipe={**to_dict(victim.recipe), "tiny": victim.tiny, "width": victim.width},
        ),
        defence=key.defence,
        clean_share=key.clean_share,
        seeds=tuple(int(result["cell"]["seed"]) for result in results),
        selected=_needed(row.selected),
        peak=_score(row.best),
        last=_score(row.last),
        own=_score(row.protected_test),
        clean=None if is_clean else _score(row.clean),
        clean_peak=None if is_clean else _score(row.clean_best),
        is_clean_defended=row.is_clean_defended,
        protection=_rounded(row.protection),
        peak_protection=_rounded(row.peak_protection),
        marginal=_rounded(row.marginal),
        curve=tuple((float(epoch), round(score, _DIGITS)) for epoch, score in row.curve),
        run=_origin(results, config),
    )
    return replace(body, id=_name(body))


def _name(row: BoardRow) -> str:
    """Readable; the end of it changes with whatever else was measured."""
    method = row.method.name
    if row.method.epsilon is not None and row.method.epsilon_bg is not None:
        method += f"@{row.method.epsilon:g}-{row.method.epsilon_bg:g}"
    parts = [row.data.name, method, row.victim.name, row.defence]
    if row.clean_share:
        parts.append(f"mix{100 * row.clean_share:g}")
    titles = {"title": ""}
    what = (
        to_dict(row.data),
        {"name": row.method.name, "settings": row.method.settings},
        {**to_dict(row.victim), **titles},
    )
    return "__".join(parts) + "-" + fingerprint(*what)


def _method(
    key: Key, changed: dict[tuple[Any, ...], Change], config: EvaluateConfig
) -> BoardMethod:
    if key.method == CLEAN:
        return BoardMethod(name=CLEAN, title=CLEAN)
    method = config.methods[key.method]
    change = changed.get((key.data, key.method, key.epsilon, key.epsilon_bg))
    card = entry_card(method) or EntryCard(schema=1, title="", authors="")
    epsilon = key.epsilon if has_budget(method) else None
    epsilon_bg = key.epsilon_bg if has_budget(method) else None
    if card.title:
        epsilon, epsilon_bg = card.epsilon, card.epsilon_bg
    settings = {**card.settings, **method.options, "seed": method.seed}
    if method.generator is not None:
        settings["generator"] = _generator(method.generator)
    return BoardMethod(
        name=key.method,
        title=method_title(config, key, with_share=False),
        kind=method.method,
        epsilon=epsilon,
        epsilon_bg=epsilon_bg,
        psnr=_rounded(change.psnr if change else None, 2),
        rms=_rounded(change.rms if change else None, 3),
        linf=_rounded(change.linf if change else None, 2),
        settings=settings,
        authors=card.authors or None,
        url=card.url,
    )


def _generator(path: str) -> str:
    """A generator's file name and the beginning of its checksum."""
    for file in (Path(path), ASSETS / f"{path}.safetensors"):
        if file.is_file():
            return f"{file.name} sha256:{sha256_file(file)[:16]}"
    return Path(path).name


def _origin(results: Sequence[Result], config: EvaluateConfig) -> BoardRun:
    """Of the row's last cell; a commit that its cells do not share is listed once each."""
    origins = [result.get("origin") or {} for result in results]
    commits = list(dict.fromkeys(o["commit"] for o in origins if o.get("commit")))
    return BoardRun(
        title=config.title,
        command=origins[-1].get("command"),
        commit=", ".join(commits) or None,
        environment=origins[-1].get("environment", {}),
        device=results[-1].get("device"),
        seconds=round(sum(float(result["seconds"]) for result in results), 1),
    )


def _score(spread: Spread | None) -> BoardScore | None:
    return None if spread is None else _needed(spread)


def _needed(spread: Spread | None) -> BoardScore:
    assert spread is not None
    values = tuple(round(v, _DIGITS) for v in spread.values)
    return BoardScore(
        mean=round(math.fsum(values) / len(values), _DIGITS),
        std=_rounded(spread.std),
        values=values,
    )


def _rounded(value: float | None, digits: int = _DIGITS) -> float | None:
    return None if value is None or math.isnan(value) else round(value, digits)


def by_place(rows: Iterable[BoardRow]) -> Iterator[tuple[BoardRow, list[BoardRow]]]:
    """Each row with all rows of its place, itself included."""
    found = list(rows)
    places: dict[tuple[Any, ...], list[BoardRow]] = {}
    for row in found:
        places.setdefault(place_of(row), []).append(row)
    yield from ((row, places[place_of(row)]) for row in found)
