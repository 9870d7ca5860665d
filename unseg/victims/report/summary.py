"""What a page says first: heat maps of protection, and sentences that follow from the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from unseg.config.board import BoardRow
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.report.elements import Part, Section, Text
from unseg.victims.report.heat import HeatCell, HeatMap, heat_cell
from unseg.victims.report.rows import BROKEN, place_of


def worst_of(place: Sequence[BoardRow]) -> BoardRow | None:
    """The row of a place with the lowest protection; None where nothing but one row is measured."""
    known = [row for row in place if row.protection is not None]
    return min(known, key=lambda row: row.protection or 0.0) if len(known) > 1 else None


def heat_maps(rows: Sequence[BoardRow]) -> list[tuple[str, HeatMap]]:
    """Protection by attack and defence: one map for each data set and victim."""
    maps = []
    for where in dict.fromkeys((row.data.name, row.victim.title) for row in rows):
        found = [
            row
            for row in rows
            if (row.data.name, row.victim.title) == where
            and row.protection is not None
            and not row.clean_share
        ]
        if not found:
            continue
        defences = sorted({row.defence for row in found}, key=lambda d: (d != NO_DEFENCE, d))
        lines = []
        for place in dict.fromkeys(place_of(row) for row in found):
            by_defence = {row.defence: row for row in found if place_of(row) == place}
            cells = [_heat(by_defence.get(defence)) for defence in defences]
            if len(defences) > 1:
                cells.append(_heat(worst_of(list(by_defence.values()))))
            lines.append((next(iter(by_defence.values())).method.title, cells))
        columns = [*defences, *["worst"] * (len(defences) > 1)]
        maps.append((", ".join(where), HeatMap("attack", columns, lines)))
    return maps


def _heat(row: BoardRow | None) -> HeatCell:
    if row is None:
        return heat_cell(None)
    mark = "" if row.is_clean_defended else "*"
    return heat_cell(row.protection, mark=mark, link=f"#{row.id}")


def sentences(rows: Sequence[BoardRow]) -> list[str]:
    """Three, or fewer: without a defence, at the peak, and the worst case over defences."""
    known = [row for row in rows if row.protection is not None and not row.clean_share]
    plain = [row for row in known if row.defence == NO_DEFENCE]
    lines = []
    if plain:
        best = _by_title(plain)
        title = max(best, key=lambda t: statistics.fmean(best[t]))
        cells = len(best[title])
        lines.append(
            f"Without a defence {title} protects best: {statistics.fmean(best[title]):z.2f} on "
            f"average over {cells} {'cell' if cells == 1 else 'cells'}, {min(best[title]):z.2f} in "
            "the worst."
        )
        peaks = [row.peak_protection for row in plain if row.peak_protection is not None]
        if peaks:
            chosen = statistics.fmean(row.protection or 0.0 for row in plain)
            lines.append(
                f"A trainer who stops at the best epoch faces {statistics.fmean(peaks):z.2f} on "
                f"average instead of {chosen:z.2f}, over all {len(plain)} undefended rows."
            )
    lines += _worst_sentence(known)
    return lines


def _by_title(rows: Sequence[BoardRow]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.method.title, []).append(row.protection or 0.0)
    return found


def _worst_sentence(known: Sequence[BoardRow]) -> Iterator[str]:
    """Which attack keeps most under its worst defence, and which defence breaks most."""
    places: dict[object, list[BoardRow]] = {}
    for row in known:
        places.setdefault(place_of(row), []).append(row)
    worst = [one for place in places.values() if (one := worst_of(place)) is not None]
    if not worst:
        yield "No defence was measured: the worst case is not known."
        return
    kept = max(worst, key=lambda row: row.protection or 0.0)
    broken = sum((row.protection or 0.0) < BROKEN for row in worst)
    yield (
        f"Under its worst defence {kept.method.title} keeps most ({kept.protection:z.2f}, "
        f"{kept.data.name}, {kept.victim.title}, {kept.defence}); {broken} of {len(worst)} attacks "
        f"fall below {BROKEN:g}."
    )


def summary_section(rows: Sequence[BoardRow]) -> Section:
    """The first section of a report."""
    parts: list[Part] = [Text(line) for line in sentences(rows)]
    for title, heat in heat_maps(rows):
        parts += [Text(f"Protection, {title}", "heading"), heat]
    return Section("Summary", parts)
