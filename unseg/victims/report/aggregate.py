"""From the results of single cells to the rows of tables: means over seeds, and what they mean."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from unseg.config.evaluate import CLEAN, FOLDER, EvaluateConfig
from unseg.metrics import marginal_value, protection
from unseg.victims.data.defences import alternatives
from unseg.victims.grid.cells import Cell, GridFolders, expand, read_json
from unseg.victims.grid.run_cell import RESULT
from unseg.victims.report.entries import entry_change

Result = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a score over seeds.

    Attributes:
        mean: in [0, 1].
        std: None for a single seed.
        values: the score of each seed.
    """

    mean: float
    std: float | None
    values: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """Spread of some values; None where there are none."""
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), std, tuple(values))

    def percent(self) -> str:
        """For example `49.6 ± 0.8`."""
        text = f"{100 * self.mean:.1f}"
        return text if self.std is None else f"{text} ± {100 * self.std:.1f}"


@dataclass(frozen=True, order=True)
class Key:
    """What the cells of a row share: everything but the seed."""

    data: str
    victim: str
    defence: str
    clean_share: float
    is_twin: bool
    method: str
    epsilon: float
    epsilon_bg: float

    @staticmethod
    def of(cell: Cell) -> Key:
        """The row that a cell belongs to."""
        return Key(
            cell.data,
            cell.victim,
            cell.defence,
            cell.clean_share,
            cell.is_twin,
            cell.method,
            cell.epsilon,
            cell.epsilon_bg,
        )


@dataclass
class ScoreRow:
    """One line of a table.

    Attributes:
        key: what its cells share.
        metric: "IoU" or "mIoU".
        floor: score of the trivial predictor.
        selected: clean-test score of the epoch chosen by the protected validation split.
        best: of the epoch that is best on the clean test itself: the attacker's luck.
        last: of the last epoch.
        protected_test: score of the selected epoch on protected test pictures.
        boundary: boundary IoU of the selected epoch, where the task has one.
        further: every other score of that epoch on the clean test, by name.
        epochs: the selected epochs.
        curve: (epoch, mean clean-test score).
        clean: score of the clean twin.
        clean_best: best score of the clean twin.
        is_clean_defended: whether that twin trained under the same defence.
        clean_part: score of the twin that had a mixture's clean part alone.
        published: published scores in percent with their sources.
        num_expected: cells that this row should have.
    """

    key: Key
    metric: str = ""
    floor: float = 0.0
    selected: Spread | None = None
    best: Spread | None = None
    last: Spread | None = None
    protected_test: Spread | None = None
    boundary: Spread | None = None
    further: dict[str, Spread] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    clean: Spread | None = None
    clean_best: Spread | None = None
    is_clean_defended: bool = True
    clean_part: Spread | None = None
    published: list[tuple[float, str]] = field(default_factory=list)
    num_expected: int = 0

    @property
    def protection(self) -> float | None:
        """What the protection took away, not clipped; None for clean rows."""
        if self.key.method == CLEAN or self.selected is None or self.clean is None:
            return None
        return protection(self.clean.mean, self.selected.mean, floor=self.floor)

    @property
    def peak_protection(self) -> float | None:
        """The same of the best epochs: from a trainer who stops at the right moment."""
        if self.key.method == CLEAN or self.best is None or self.clean_best is None:
            return None
        return protection(self.clean_best.mean, self.best.mean, floor=self.floor)

    @property
    def marginal(self) -> float | None:
        """What the protected part of a mixture added."""
        if self.selected is None or self.clean_part is None or self.key.is_twin:
            return None
        return marginal_value(self.selected.mean, self.clean_part.mean)


def collect(config: EvaluateConfig) -> tuple[list[ScoreRow], dict[Key, list[Result]]]:
    """All rows of a grid in its order, and the results behind each."""
    folders = GridFolders(config, is_recorded=True)
    results: dict[Key, list[Result]] = {}
    expected: dict[Key, int] = {}
    for cell in expand(config):
        key = Key.of(cell)
        expected[key] = expected.get(key, 0) + 1
        found = read_json(folders.cell(cell) / RESULT)
        results.setdefault(key, [])
        if found is not None:
            results[key].append(found)
    rows = [_row(key, found, expected[key]) for key, found in results.items()]
    rows += _better_rows(rows, results, config)
    by_key = {row.key: row for row in rows}
    for row in rows:
        _relate(row, by_key, config)
    return rows, results


def _row(key: Key, results: list[Result], expected: int) -> ScoreRow:
    row = ScoreRow(key, num_expected=expected)
    if not results:
        return row

    def spread(read: Callable[[dict[str, Any]], Any]) -> Spread | None:
        values = [read(result["scores"]) for result in results]
        return Spread.of([float(v) for v in values if v is not None])

    row.metric = results[0]["metric"]
    row.floor = float(results[0]["floor"])
    row.selected = spread(lambda s: s["selected"]["clean_test"]["score"])
    row.best = spread(lambda s: s["best"]["clean_test"]["score"])
    row.last = spread(lambda s: s["last"]["clean_test"]["score"])
    row.protected_test = spread(lambda s: s["selected"].get("protected_test", {}).get("score"))
    row.boundary = spread(lambda s: s["selected"]["clean_test"].get("boundary_iou"))
    selected = [result["scores"]["selected"]["clean_test"] for result in results]
    for name in selected[0]:
        value = Spread.of([float(scores[name]) for scores in selected if name in scores])
        if name not in ("score", "boundary_iou") and value is not None:
            row.further[name] = value
    row.epochs = [int(result["scores"]["selected"]["epoch"]) for result in results]
    row.curve = _mean_curve(result["curve"] for result in results)
    return row


def _better_rows(
    rows: Sequence[ScoreRow], results: dict[Key, list[Result]], config: EvaluateConfig
) -> list[ScoreRow]:
    """Of each written defence with alternatives the better one's row, under the written name.

    Its results join `results` under that name.
    """
    by_key = {row.key: row for row in rows}
    written = dict.fromkeys(d for b in config.grid for d in b.defences if len(alternatives(d)) > 1)
    better = []
    for defence in written:
        names = alternatives(defence)
        for row in rows:
            if row.key.defence != names[0]:
                continue
            found = [by_key.get(replace(row.key, defence=name)) for name in names]
            scored = [r for r in found if r is not None and r.selected is not None]
            if len(scored) == len(names):
                best = max(scored, key=lambda r: r.selected.mean if r.selected else 0.0)
                better.append(replace(best, key=replace(row.key, defence=defence)))
                results[better[-1].key] = results[best.key]
    return better


def _mean_curve(curves: Iterable[list[dict[str, float]]]) -> list[tuple[int, float]]:
    by_epoch: dict[int, list[float]] = {}
    for curve in curves:
        for point in curve:
            by_epoch.setdefault(int(point["epoch"]), []).append(point["clean_test"])
    return [(epoch, statistics.fmean(values)) for epoch, values in sorted(by_epoch.items())]


def _relate(row: ScoreRow, by_key: dict[Key, ScoreRow], config: EvaluateConfig) -> None:
    """Fill in what a row is measured against."""
    key = row.key
    for defence in (key.defence, "none"):
        clean = by_key.get(Key(key.data, key.victim, defence, 0.0, False, CLEAN, 0.0, 0.0))
        if clean is not None and clean.selected is not None:
            row.clean, row.clean_best = clean.selected, clean.best
            row.is_clean_defended = defence == key.defence
            break
    if key.clean_share:
        twin = Key(key.data, key.victim, key.defence, key.clean_share, True, CLEAN, 0.0, 0.0)
        row.clean_part = by_key[twin].selected if twin in by_key else None
    place = (key.data, key.victim, key.method, key.defence, key.clean_share)
    row.published = [
        (p.score, p.source)
        for p in config.published
        if (p.data, p.victim, p.method, p.defence, p.clean_share) == place and not key.is_twin
    ]


@dataclass(frozen=True)
class Change:
    """How a method changes the pictures of a data set: means over the training pictures.

    Attributes:
        data: name of the data set.
        method: name of the method.
        epsilon: budget inside the region in grey levels.
        epsilon_bg: budget outside.
        rms: root mean square change in grey levels.
        linf: largest change of any pixel.
        psnr: in dB.
        region_share: share of the pixels that lie inside the region.
        l2: Euclidean norm of the change of values in [0, 1].
        delta_e: mean CIEDE2000 as a person sees it, of some of the pictures (`Visibility`).
        delta_e_99: its 99th percentile.
        ssim: structural similarity.
    """

    data: str
    method: str
    epsilon: float
    epsilon_bg: float
    rms: float | None
    linf: float | None
    psnr: float | None
    region_share: float | None
    l2: float | None = None
    delta_e: float | None = None
    delta_e_99: float | None = None
    ssim: float | None = None


def changes(config: EvaluateConfig) -> list[Change]:
    """How each method changed each data set, as measured on the written files."""
    folders = GridFolders(config, is_recorded=True)
    found: dict[tuple[str, str, float, float], Change] = {}
    names = {known.name for known in fields(Change)}
    for cell in expand(config):
        place = (cell.data, cell.method, cell.epsilon, cell.epsilon_bg)
        if cell.method == CLEAN or place in found:
            continue
        if config.methods[cell.method].method == FOLDER:
            figures = entry_change(config, folders, cell)
        else:
            figures = read_json(folders.protected(cell) / "train.json")
        if figures is not None:
            # Beside the figures a file may say which key it was made with.
            found[place] = Change(*place, **{k: v for k, v in figures.items() if k in names})
    return list(found.values())
