"""The protected sets of a grid: how each is asked for, and that it is made once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import EvaluateConfig, MethodConfig
from unseg.config.generate import GenerateConfig
from unseg.config.load import from_dict, to_dict
from unseg.io.files import atomic_write
from unseg.io.locks import locked
from unseg.protection.methods import METHODS
from unseg.protection.run import generate
from unseg.utils.errors import UserError
from unseg.victims.data.splits import SPLITS, split_config
from unseg.victims.grid.cells import Cell, GridFolders

_log = logging.getLogger(__name__)


def make_protected(config: EvaluateConfig, folders: GridFolders, cell: Cell) -> None:
    """Protect both splits of a cell's data set, unless that is done already."""
    folder = folders.protected(cell)
    with locked(folder, wait=True):
        for split in SPLITS:
            done = folder / f"{split}.json"
            if done.exists():
                continue
            dataset = split_config(config.data[cell.data], split, folders.pictures(cell.data))
            _log.info("protect %s: %s", split, folder.name)
            summary = _protect(config, cell, dataset, folder / split)
            with atomic_write(done, "w") as file:
                json.dump(summary, file, indent=1)


def _protect(
    config: EvaluateConfig, cell: Cell, dataset: DatasetConfig, folder: Path
) -> dict[str, Any]:
    """Run the protection pipeline over a split; returns how its pictures changed."""
    protected = generation_config(
        config.methods[cell.method],
        name=cell.method,
        budget=(cell.epsilon, cell.epsilon_bg),
        task=config.data[cell.data].task,
        dataset=dataset,
        folder=folder,
        device=config.device,
    )
    summary = generate(protected, looks_beside=False)  # the split's own pictures alone
    if summary.failed:
        key, reason = summary.failures[0]
        raise UserError(
            f"methods.{cell.method}: {summary.failed} pictures failed, first {key}: {reason}"
        )
    return {
        "rms": summary.rms_mean,
        "l2": summary.l2_mean,
        "linf": max(summary.linf_inside, summary.linf_outside),
        "psnr": summary.psnr_mean,
        "region_share": summary.region_share_mean,
    }


def generation_config(
    method: MethodConfig,
    *,
    name: str,
    budget: tuple[float, float],
    task: str,
    dataset: DatasetConfig,
    folder: Path,
    device: str,
) -> GenerateConfig:
    """What `unseg generate` is asked for, to protect a split.

    Args:
        method: how.
        name: of that entry, for messages.
        budget: (inside, outside) in grey levels.
        task: of the victims; they learn two classes in "foreground", so two are protected there.
        dataset: the split.
        folder: of the protected pictures.
        device: where.

    Raises:
        UserError: options that `unseg generate` does not know.
    """
    values: dict[str, Any] = {
        "data": to_dict(dataset),
        "method": method.method,
        "output": {"dir": str(folder)},
        "noise": {"epsilon": budget[0], "epsilon_bg": budget[1]},
        "run": {"seed": method.seed, "device": device},
    }
    if method.generator is not None:
        values["generator"] = {"path": method.generator}
    facts = METHODS.get(method.method)
    if facts is not None and facts.needs_classes and task == "foreground":
        values["noise"]["classes"] = "region"
    for key, value in method.options.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return from_dict(GenerateConfig, values, source=f"methods.{name}")
