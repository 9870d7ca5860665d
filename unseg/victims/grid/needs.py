"""What a grid needs of disk, host memory and loading: from headers, and some pictures read once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import CLEAN, FOLDER, EvaluateConfig, RecipeConfig, VictimDataConfig
from unseg.data.annotations import build_source
from unseg.io.decode import read_rgb
from unseg.io.files import free_bytes
from unseg.utils.errors import UserError
from unseg.victims.data.splits import SPLITS
from unseg.victims.data.tensor_set import fit_frame
from unseg.victims.grid.cells import Cell, GridFolders, expand

NUM_LOOKED_AT = 24
"""Pictures of a split that are read to know the mean size and the speed of reading."""

PNG_BYTES = 3 * 0.85
"""Bytes on the disk for a pixel of a protected picture: noise compresses badly."""

NUM_WORKERS = 4
"""Workers of a process beside a GPU where the configuration says none."""

BATCHES_AHEAD = 2
"""Batches that torch's loader decodes ahead for each worker."""

FRAME_BYTES = 4
"""Bytes in memory for a pixel of the frame: three colours and the label."""


@dataclass(frozen=True)
class Split:
    """Pictures of a split as far as some of them tell.

    Attributes:
        count: pictures listed.
        pixels: mean pixels of a picture in the size in which it is published.
        seconds: mean seconds to read one with its label and bring it into the frame.
    """

    count: int
    pixels: float
    seconds: float


def need_lines(config: EvaluateConfig) -> Iterator[str]:
    """Lines for a terminal, of those data sets whose files are there."""
    cells = expand(config)
    sets = {
        name: found
        for name in dict.fromkeys(c.data for c in cells)
        if (found := _look(config, name))
    }
    if not sets:
        return
    for name, splits in sets.items():
        counts = " + ".join(str(split.count) for split in splits)
        pixels = np.mean([split.pixels for split in splits]) / 1e6
        yield f"data.{name}: {counts} pictures of {pixels:.2f} megapixels on average"
    yield _disk_line(config, cells, sets)
    yield _memory_line(config, cells, sets)
    if config.expected_gpu_hours:
        yield _loading_line(config, config.expected_gpu_hours, cells, sets)


def _look(config: EvaluateConfig, name: str) -> list[Split]:
    """The splits of a data set; none where files are missing, which is reported elsewhere."""
    section = config.data[name]
    frames = [config.victims[v].recipe for b in config.grid if name in b.data for v in b.victims]
    recipe = max(frames, key=lambda r: r.image_size)
    found = []
    for split in SPLITS:
        dataset: DatasetConfig | None = getattr(section, split)
        if dataset is None:
            return []
        try:
            found.append(_read_some(dataset, section, recipe))
        except UserError:
            return []
    return found


def _read_some(dataset: DatasetConfig, section: VictimDataConfig, recipe: RecipeConfig) -> Split:
    """Read pictures and labels at equal distances through a split.

    Raises:
        UserError: the list, or every picture that was tried, cannot be read.
    """
    source = build_source(dataset)
    items = source.items()
    pixels, seconds, fault = [], [], None
    for number in np.linspace(0, len(items) - 1, min(NUM_LOOKED_AT, len(items))).astype(int):
        start = time.perf_counter()
        try:
            label = source.read(items[number]).class_map
            picture = read_rgb(items[number].image_path, max_pixels=dataset.max_pixels)
        except UserError as error:
            fault = error
            continue
        fit_frame(
            torch.from_numpy(picture).permute(2, 0, 1).float() / 255,
            torch.from_numpy((label & 255).astype(np.uint8)),
            side=recipe.image_size,
            keep_ratio=recipe.keep_ratio,
            antialias=recipe.antialias,
        )
        seconds.append(time.perf_counter() - start)
        pixels.append(_published_pixels(picture.shape[0], picture.shape[1], section))
    if fault is not None and not pixels:
        raise fault
    return Split(len(items), float(np.mean(pixels)), float(np.mean(seconds)))


def _published_pixels(height: int, width: int, section: VictimDataConfig) -> float:
    side = section.protect_size
    if side is None:
        return height * width
    if section.protect_square:
        return side * side
    return height * width * min(1.0, side / max(height, width)) ** 2


def _disk_line(config: EvaluateConfig, cells: list[Cell], sets: dict[str, list[Split]]) -> str:
    """Protected pictures, and those that are reduced before."""
    folder = GridFolders(config).cache_dir
    protected = {
        replace(cell, victim="", defence="none", clean_share=0.0, seed=0)
        for cell in cells
        if cell.method != CLEAN and config.methods[cell.method].method != FOLDER
    }
    reduced = [name for name in sets if config.data[name].protect_size is not None]
    names = [cell.data for cell in protected if cell.data in sets] + reduced
    needed = sum(PNG_BYTES * s.count * s.pixels for name in names for s in sets[name])
    free = free_bytes(folder)
    return _line(
        "disk", f"{_gb(needed)} for {len(names)} sets of pictures in {folder}", needed, free, "free"
    )


def _memory_line(config: EvaluateConfig, cells: list[Cell], sets: dict[str, list[Split]]) -> str:
    """Of one process: its cache, or all pictures where they take less, and what is on the way.

    A process has the clean and the published pictures of both splits at most.
    """
    largest, needed = 0.0, 0.0
    for cell in (cell for cell in cells if cell.data in sets):
        recipe = config.victims[cell.victim].recipe
        picture = FRAME_BYTES * recipe.image_size**2
        pictures = picture * sum(2 * split.count for split in sets[cell.data])
        workers = NUM_WORKERS if config.num_workers is None else config.num_workers
        waiting = BATCHES_AHEAD * max(workers, 1) * recipe.batch_size * picture
        largest = max(largest, pictures)
        needed = max(needed, min(pictures, recipe.cache_gib * 2**30) + waiting)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    what = (
        f"{_gb(needed)} a process for pictures (recipe.cache_gib and batches on the way; all of "
        f"the largest cell: {_gb(largest)})"
    )
    return _line("host memory", what, needed * config.ranks_per_cell, there, "in this machine")


def _loading_line(
    config: EvaluateConfig, hours: float, cells: list[Cell], sets: dict[str, list[Split]]
) -> str:
    """Pictures a second that one GPU would use up, against what one core reads."""
    known = [cell for cell in cells if cell.data in sets]
    seen = sum(_pictures_seen(config, cell, sets[cell.data][0].count) for cell in known)
    needed = seen / (hours * 3600 * len(known) / len(cells))
    seconds = np.average(
        [sets[cell.data][0].seconds for cell in known],
        weights=[_pictures_seen(config, cell, sets[cell.data][0].count) for cell in known],
    )
    workers = int(np.ceil(needed * seconds))
    return (
        f"loading: {needed:.1f} pictures/s for each GPU (pictures of all cells / expected hours), "
        f"{1 / seconds:.1f} a core measured here: {workers} workers"
    )


def _pictures_seen(config: EvaluateConfig, cell: Cell, count: int) -> int:
    recipe = config.victims[cell.victim].recipe
    if recipe.steps is not None:
        return recipe.steps * recipe.batch_size
    return (recipe.epochs or 1) * round(count * (1 - config.data[cell.data].validation_share))


def _line(what: str, text: str, needed: float, there: float, where: str) -> str:
    warning = "WARNING: " if needed > there else ""
    return f"{warning}{what}: {text}, {_gb(there)} {where}"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
