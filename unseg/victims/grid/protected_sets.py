"""The protected sets of a grid: how each is asked for, and that it is made once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import FOLDER, EvaluateConfig, MethodConfig
from unseg.config.generate import GenerateConfig
from unseg.config.load import from_dict, to_dict
from unseg.data.annotations import AnnotationSource, build_source
from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.tree import Inside
from unseg.io.files import atomic_write, atomic_write_bytes
from unseg.io.locks import locked
from unseg.protection.methods import METHODS, NoiseKey
from unseg.protection.run import generate
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.victims.data.load import picture_pairs, protected_file
from unseg.victims.data.splits import SPLITS, split_config
from unseg.victims.data.visibility import seen_change
from unseg.victims.grid.cells import Cell, GridFolders, read_json

_log = logging.getLogger(__name__)


AGAIN = "train_again"
"""Folder beside a set's splits: its protected training pictures, protected once more."""
BY_TRAINER = "train_by_trainer"
"""The same: clean training pictures, protected by somebody who has another key."""
_KEY = "noise.key"
_TRAINERS_SECRET = b"a trainer has the program and a key of his own"


def make_protected(
    config: EvaluateConfig, folders: GridFolders, cell: Cell, *, splits: Sequence[str] = SPLITS
) -> None:
    """Protect splits of a cell's data set, unless that is done already.

    Processes that run a cell together divide the pictures; rank 0 holds the lock for all.
    """
    folder = folders.protected(cell)
    with _locked_for_all(folder):
        for split in splits:
            dataset = split_config(config.data[cell.data], split, folders.pictures(cell.data))
            _protect_once(config, cell, dataset, folder / split)


def make_protected_again(config: EvaluateConfig, folders: GridFolders, cell: Cell) -> Path:
    """Protect a cell's protected training pictures once more, unless that is done already.

    Returns:
        Their folder.
    """
    folder = folders.protected(cell)
    dataset = split_config(config.data[cell.data], "train", folders.pictures(cell.data))
    with _locked_for_all(folder):
        source = _Republished(build_source(dataset), folder / "train")
        _protect_once(config, cell, dataset, folder / AGAIN, source=source, by_trainer=True)
    return folder / AGAIN


def make_protected_by_trainer(config: EvaluateConfig, folders: GridFolders, cell: Cell) -> Path:
    """Protect a cell's clean training pictures as a trainer can, unless that is done already.

    He has everything but the key. Without one it is the set of `make_protected`.

    Returns:
        Their folder.
    """
    folder = folders.protected(cell)
    if _KEY not in config.methods[cell.method].options:
        make_protected(config, folders, cell, splits=("train",))
        return folder / "train"
    with _locked_for_all(folder):
        dataset = split_config(config.data[cell.data], "train", folders.pictures(cell.data))
        _protect_once(config, cell, dataset, folder / BY_TRAINER, by_trainer=True)
    return folder / BY_TRAINER


class _Republished:
    """A data set whose pictures are read from the folder of the protected ones."""

    def __init__(self, source: AnnotationSource, root: Path) -> None:
        self._source, self._folder = source, Inside(root)
        self.class_names, self.num_classes = source.class_names, source.num_classes
        self.thing_ids = source.thing_ids

    def items(self) -> Sequence[Item]:
        """Under the data set's own names."""
        return [
            replace(item, image_path=protected_file(self._folder, item.key))
            for item in self._source.items()
        ]

    def read(self, item: Item) -> Annotation:
        """The data set's own label."""
        return self._source.read(item)


def protected_root(
    config: EvaluateConfig, folders: GridFolders, cell: Cell, split: str
) -> Path | None:
    """Folder of a split's protected pictures; None where there are none (a folder's test)."""
    method = config.methods[cell.method]
    if method.method == FOLDER:
        root = method.train_root if split == "train" else method.test_root
        return None if root is None else Path(root)
    return folders.protected(cell) / split


def _protect_once(
    config: EvaluateConfig,
    cell: Cell,
    dataset: DatasetConfig,
    folder: Path,
    *,
    source: AnnotationSource | None = None,
    by_trainer: bool = False,
) -> None:
    done = folder.with_name(f"{folder.name}.json")
    method = config.methods[cell.method]
    if by_trainer and _KEY in method.options:
        method = _with_trainers_key(method, folder)
    place = method.options.get(_KEY)
    fingerprint = None if place is None else NoiseKey.read(place).fingerprint
    if distributed.from_main(done.exists):
        made_with = (read_json(done) or {}).get(_KEY)
        if made_with != fingerprint:
            raise UserError(
                f"{folder}: was made with another {_KEY} ({made_with}, not {fingerprint}); take "
                "that key, or another run_dir"
            )
        return
    if distributed.is_main():
        _log.info("protect %s: %s", folder.name, folder.parent.name)
    summary = _protect(config, cell, method, dataset, folder, source)
    if fingerprint is not None:
        summary[_KEY] = fingerprint
    if distributed.is_main():
        with atomic_write(done, "w") as file:
            json.dump(summary, file, indent=1)


def _with_trainers_key(method: MethodConfig, folder: Path) -> MethodConfig:
    path = folder.with_name("trainer.key")
    if distributed.is_main():
        folder.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, _TRAINERS_SECRET)
    distributed.from_main(path.is_file)  # the others wait for it
    return replace(method, options={**method.options, _KEY: str(path)})


@contextmanager
def _locked_for_all(folder: Path) -> Iterator[None]:
    with ExitStack() as lock:
        distributed.from_main(lambda: lock.enter_context(locked(folder, wait=True)))
        yield


def _protect(
    config: EvaluateConfig,
    cell: Cell,
    method: MethodConfig,
    dataset: DatasetConfig,
    folder: Path,
    source: AnnotationSource | None,
) -> dict[str, Any]:
    """Run the protection pipeline over a split; returns how its pictures changed."""
    protected = generation_config(
        method,
        name=cell.method,
        budget=(cell.epsilon, cell.epsilon_bg),
        task=config.data[cell.data].task,
        dataset=dataset,
        folder=folder,
        device=config.device,
    )
    # The split's own pictures alone.
    summary = generate(protected, source=source, looks_beside=False)
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
        **seen_change(picture_pairs(dataset, folder)),
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
