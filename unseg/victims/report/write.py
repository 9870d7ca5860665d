"""The report of a grid: its sections, written as `report.md` with figures and as `report.html`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.config.evaluate import CLEAN, EvaluateConfig
from unseg.io.files import atomic_write, atomic_write_bytes
from unseg.utils.errors import UserError
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.data.splits import split_config
from unseg.victims.grid.cells import Cell, GridFolders, expand
from unseg.victims.grid.protected_sets import protected_root
from unseg.victims.grid.run_cell import EXAMPLES
from unseg.victims.report import figures
from unseg.victims.report.aggregate import Key, ScoreRow, changes, collect
from unseg.victims.report.all_scores import all_scores_section
from unseg.victims.report.elements import (
    NOTHING,
    Figure,
    Part,
    Section,
    Table,
    Text,
    aligned,
    budget_title,
    method_title,
    number,
    percent,
    victim_title,
)
from unseg.victims.report.mixture_section import mixture_section
from unseg.victims.report.page import need_page_packages, write_page
from unseg.victims.report.rows import board_rows
from unseg.victims.report.summary import summary_section

HOW_TO_READ = (
    "Victims are trained on pictures as they were published and tested on clean ones: the lower "
    "the score on clean test, the better the protection. 'selected' is the epoch that is best on a "
    "validation split in the published state, which is all that a trainer can see; 'peak' is the "
    "epoch that happens to be best on the clean test itself. Protection is (clean - protected) / "
    "(clean - floor), 'at peak' the same of the best epochs; the floor is what the trivial "
    "predictor scores (0 for IoU of the foreground); * marks a clean twin without the row's "
    "defence. Means and sample standard deviations over seeds, in percent. Rows of random_sign and "
    "the like are controls: no claim counts without them."
)


def write_report(config: EvaluateConfig) -> Path:
    """Write the report of whatever cells are done.

    Returns:
        Path of `report.md`; `report.html` lies beside it.

    Raises:
        UserError: no cell has a result yet, or the packages of the report are missing.
    """
    need_page_packages()
    run_dir = Path(config.run_dir)
    found = list(sections(config))
    (run_dir / "figures").mkdir(parents=True, exist_ok=True)
    text = [f"# {config.title}"]
    for section in found:
        text += [f"## {section.heading}", *(part.markdown() for part in section.parts)]
        for part in section.parts:
            if isinstance(part, Figure):
                atomic_write_bytes(run_dir / "figures" / f"{part.name}.png", part.data)
    write_page(run_dir / "report.html", title=config.title, sections=found)
    with atomic_write(run_dir / "report.md", "w") as file:
        file.write("\n\n".join(text) + "\n")
    return run_dir / "report.md"


def summary_lines(config: EvaluateConfig) -> list[str]:
    """The scores of all finished rows as aligned text for a terminal, in percent."""
    lines = [("data", "victim", "defence", "trained on", "selected", "peak", "own protected test")]
    for row in sorted(collect(config)[0], key=_order):
        if row.selected is None:
            continue
        own = row.protected_test.percent() if row.protected_test else NOTHING
        names = (row.key.data, victim_title(config, row.key.victim), row.key.defence)
        scores = (row.selected.percent(), percent(row.best), own)
        lines.append((*names, method_title(config, row.key), *scores))
    return aligned(lines)


def sections(config: EvaluateConfig) -> Iterator[Section]:
    """All sections of a grid's report, from whatever cells are done.

    Raises:
        UserError: no cell has a result yet.
    """
    rows = sorted(collect(config)[0], key=_order)
    if not any(row.selected for row in rows):
        raise UserError(f"{config.run_dir}: no cell is finished; run unseg evaluate first")
    missing = sum(row.num_expected - len(row.epochs) for row in rows)
    yield summary_section(board_rows(config))
    parts: list[Part] = [Text(HOW_TO_READ)]
    if missing:
        parts.append(Text(f"{missing} cells of the grid have no result yet."))
    for data in dict.fromkeys(row.key.data for row in rows):
        of_data = [row for row in rows if row.key.data == data and row.selected]
        if of_data:
            parts.append(Text(f"{data} ({of_data[0].metric})", "heading"))
            parts.append(_score_table(of_data, config))
    yield Section("Scores on clean test pictures", parts)
    yield from all_scores_section(rows, config)
    yield from _published_section(rows, config)
    yield from mixture_section(rows, config)
    yield from _change_section(config)
    yield from _curve_section(rows, config)
    yield from _picture_section(config)


def _score_table(rows: list[ScoreRow], config: EvaluateConfig) -> Table:
    header = (
        "victim", "defence", "training pictures", "selected", "peak", "last", "own test",
        "boundary IoU", "protection", "at peak", "epochs", "seeds",
    )  # fmt: skip
    lines = []
    for row in rows:
        assert row.selected is not None
        mark = "" if row.is_clean_defended or row.key.method == CLEAN else "*"
        value = row.protection
        lines.append(
            (
                victim_title(config, row.key.victim),
                row.key.defence,
                method_title(config, row.key),
                row.selected.percent(),
                percent(row.best),
                percent(row.last),
                percent(row.protected_test),
                percent(row.boundary),
                number(value, lambda v: f"{v:.3f}") + mark,
                number(row.peak_protection, lambda v: f"{v:.3f}") + mark,
                ", ".join(map(str, row.epochs)),
                f"{len(row.epochs)}/{row.num_expected}",
            )
        )
    return Table(header, lines, num_text=3)


def _order(row: ScoreRow) -> tuple[Any, ...]:
    """By set, victim, defence."""
    key = row.key
    defence = (key.defence != NO_DEFENCE, key.defence)
    return (key.data, key.victim, *defence, key.clean_share, key.method != CLEAN)


def _published_section(rows: list[ScoreRow], config: EvaluateConfig) -> Iterator[Section]:
    lines = [
        (
            row.key.data,
            victim_title(config, row.key.victim),
            method_title(config, row.key),
            percent(row.selected),
            percent(row.best),
            f"{score:.1f}",
            source,
        )
        for row in rows
        for score, source in row.published
    ]
    if lines:
        header = (
            "data", "victim", "training pictures", "ours", "our peak", "published", "source"
        )  # fmt: skip
        yield Section("Beside published numbers", [Table(header, lines, num_text=3)])


def _change_section(config: EvaluateConfig) -> Iterator[Section]:
    lines = [
        (
            change.data,
            config.methods[change.method].title or change.method,
            budget_title(config, change.method, change.epsilon, change.epsilon_bg),
            number(change.rms, lambda v: f"{v:.2f}"),
            number(change.l2, lambda v: f"{v:.2f}"),
            number(change.linf, lambda v: f"{v:g}"),
            number(change.psnr, lambda v: f"{v:.1f}"),
            number(change.ssim, lambda v: f"{v:.3f}"),
            number(change.delta_e, lambda v: f"{v:.2f}"),
            number(change.delta_e_99, lambda v: f"{v:.2f}"),
            number(change.region_share, lambda v: f"{100 * v:.1f} %"),
        )
        for change in changes(config)
    ]
    if lines:
        header = (
            *("data", "method", "budget", "RMS", "L2", "Linf", "PSNR (dB)", "SSIM"),
            *("dE00", "dE00, 99 %", "region"),
        )
        note = (
            "Measured on the written files, in grey levels of 255 (L2: of values in [0, 1], over a "
            "whole picture); means but for Linf. dE00 is the colour difference that a person sees "
            "from 60 cm (CIEDE2000 after the eye's blur; 1 is just seen on plain fields), in the "
            "mean and at the 99th percentile of the pixels; it and SSIM are of eight pictures."
        )
        yield Section("How the pictures change", [Text(note), Table(header, lines, num_text=2)])


def _curve_section(rows: list[ScoreRow], config: EvaluateConfig) -> Iterator[Section]:
    parts: list[Part] = []
    places = dict.fromkeys((row.key.data, row.key.victim, row.key.defence) for row in rows)
    for data, victim, defence in places:
        lines = {
            method_title(config, row.key): [(epoch, 100 * score) for epoch, score in row.curve]
            for row in rows
            if (row.key.data, row.key.victim, row.key.defence) == (data, victim, defence)
            and not row.key.clean_share
            and row.curve
        }
        if not lines:
            continue
        title = f"{data}, {victim_title(config, victim)}"
        title += "" if defence == "none" else f", defence {defence}"
        picture = figures.curves(lines, title=title, x_label="epoch", y_label="clean test (%)")
        name = f"curve_{data}_{victim}_{defence}".replace("+", "_")
        parts.append(Figure(name, f"clean-test score by epoch, {title}", picture))
    if parts:
        yield Section("Clean-test score by epoch", parts)


def _picture_section(config: EvaluateConfig) -> Iterator[Section]:
    folders = GridFolders(config, is_recorded=True)
    parts: list[Part] = []
    cells = [cell for cell in expand(config) if not cell.clean_share and cell.defence == "none"]
    for data in dict.fromkeys(cell.data for cell in cells):
        of_data = [cell for cell in cells if cell.data == data]
        parts += _histograms(config, folders, data, of_data)
        section = config.data[data]
        if not (section.publishable or section.synthetic is not None):
            parts.append(Text(f"Pictures of {data} are not shown: data.publishable is false."))
            continue
        for victim in dict.fromkeys(cell.victim for cell in of_data):
            parts += _examples(config, folders, [c for c in of_data if c.victim == victim])
    if parts:
        yield Section("Pictures and predictions", parts)


def _histograms(
    config: EvaluateConfig, folders: GridFolders, data: str, cells: Sequence[Cell]
) -> list[Part]:
    roots = {}
    for cell in cells:
        root = None if cell.method == CLEAN else protected_root(config, folders, cell, "train")
        if root is not None and root.is_dir():
            roots[method_title(config, Key.of(cell))] = root
    if not roots:
        return []
    dataset = split_config(config.data[data], "train", folders.pictures(data))
    try:
        picture = figures.histogram(dataset, roots, title=f"pixel values, {data}")
    except UserError as error:
        # The cells say so too, where the pictures were needed; the other sections do not need them.
        return [Text(f"No histogram of {data}: {error}")]
    return [Figure(f"histogram_{data}", f"histogram of pixel values, {data}", picture)]


def _examples(config: EvaluateConfig, folders: GridFolders, cells: Sequence[Cell]) -> list[Part]:
    examples: dict[str, dict[str, np.ndarray]] = {}
    for cell in cells:
        path = folders.cell(cell) / EXAMPLES
        name = method_title(config, Key.of(cell))
        if name not in examples and path.is_file():
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                examples[name] = {key: stored[key] for key in stored.files}
    if not examples:
        return []
    data, victim = cells[0].data, cells[0].victim
    title = f"predictions on clean test pictures: {data}, {victim_title(config, victim)}"
    picture = figures.predictions(examples, title=title)
    return [Figure(f"predictions_{data}_{victim}", title, picture)]
