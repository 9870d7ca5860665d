"""Entries of others: what their card says, and how their pictures differ from the clean ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from unseg.config.board import EntryCard
from unseg.config.evaluate import FOLDER, EvaluateConfig, MethodConfig
from unseg.config.load import from_dict
from unseg.io.decode import read_rgb
from unseg.io.files import atomic_write
from unseg.utils.errors import UserError
from unseg.victims.data.load import picture_pairs
from unseg.victims.data.splits import split_config
from unseg.victims.data.visibility import seen_change
from unseg.victims.grid.cells import Cell, GridFolders, fingerprint, read_json

CARD = "entry.json"


def entry_card(method: MethodConfig) -> EntryCard | None:
    """The card beside the training pictures of an entry; None where there is none.

    Raises:
        UserError: the card is damaged.
    """
    if method.method != FOLDER or method.train_root is None:
        return None
    path = Path(method.train_root) / CARD
    content = read_json(path)
    return None if content is None else from_dict(EntryCard, content, source=str(path))


def check_cards(config: EvaluateConfig) -> None:
    """Faults of cards, before hours of training.

    Raises:
        UserError: with a line for every fault.
    """
    problems = []
    for method in config.methods.values():
        try:
            entry_card(method)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def entry_change(config: EvaluateConfig, folders: GridFolders, cell: Cell) -> dict[str, Any] | None:
    """How an entry changed the training pictures: the figures of `Change`, measured once.

    Returns:
        None where the pictures are no longer there.
    """
    root = config.methods[cell.method].train_root
    name = f"{cell.data}__{cell.method}-{fingerprint(root)}.json"
    place = folders.run_dir / "entries" / name
    found = read_json(place)
    if found is not None or root is None:
        return found
    dataset = split_config(config.data[cell.data], "train", folders.pictures(cell.data))
    try:
        figures = _measure(picture_pairs(dataset, Path(root)))
    except UserError:
        # The cells say so too, where the pictures were needed.
        return None
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(place, "w") as file:
        json.dump(figures, file, indent=1)
    return figures


def _measure(pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """Means over pictures, but for the largest change, as of sets that are protected here."""
    errors, norms, largest = [], [], 0.0
    for clean, protected in pairs:
        before, after = read_rgb(clean), read_rgb(protected)
        if before.shape != after.shape:
            raise UserError(f"{protected}: is {after.shape[:2]} (H, W), not {before.shape[:2]}")
        change = after.astype(np.float32) - before
        errors.append(math.sqrt(float((change**2).mean())))
        norms.append(errors[-1] * math.sqrt(change.size) / 255)
        largest = max(largest, float(np.abs(change).max()))
    ratios = [20 * math.log10(255 / error) for error in errors if error]
    return {
        "rms": float(np.mean(errors)),
        "l2": float(np.mean(norms)),
        "linf": largest,
        "psnr": float(np.mean(ratios)) if ratios else None,
        "region_share": None,
        **seen_change(pairs),
    }
