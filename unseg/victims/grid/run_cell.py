"""One cell from its pictures to its result."""

from __future__ import annotations

import io
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import (
    CLEAN,
    DENSE_TASKS,
    EvaluateConfig,
    RecipeConfig,
    VictimDataConfig,
)
from unseg.data.annotations import build_source
from unseg.io.files import atomic_write, atomic_write_bytes
from unseg.io.tensors import read_weight_file
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed
from unseg.victims.data.defences import (
    defence_at_test,
    is_drawn,
    learnt_defences,
    picture_defence,
    ready_defence,
    training_defences,
)
from unseg.victims.data.defences.base import Defend
from unseg.victims.data.load import load_tensors, num_classes, object_ranks
from unseg.victims.data.mixtures import clean_rows, mixed
from unseg.victims.data.splits import split_config, validation_rows
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.grid.cells import Cell, GridFolders
from unseg.victims.grid.knowledge import trainer_knowledge
from unseg.victims.grid.protected_sets import protected_root
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.training.class_map_task import ClassMapTask, Task
from unseg.victims.training.fit import FitState, fit
from unseg.victims.training.object_tasks import ObjectTask

_log = logging.getLogger(__name__)
RESULT, STATE, EXAMPLES = "result.json", "state.pt", "examples.npz"
_KEPT_SETS = 6


class TensorCache:
    """The last few sets in memory: neighbouring cells of a grid share theirs."""

    def __init__(self, config: EvaluateConfig, folders: GridFolders) -> None:
        self.config, self.folders = config, folders
        self._sets: OrderedDict[tuple[Any, ...], TensorSet] = OrderedDict()

    def get(self, cell: Cell, split: str, *, is_protected: bool) -> TensorSet:
        """A split in the frame of the cell's victim, after the cell's defence."""
        root = protected_root(self.config, self.folders, cell, split) if is_protected else None
        data = self.config.data[cell.data]
        recipe = self.config.victims[cell.victim].recipe
        frame = (recipe.image_size, recipe.keep_ratio, recipe.antialias, recipe.score_at)
        key = (cell.data, split, root, frame, *self._defence_key(cell, split))
        if key not in self._sets:
            dataset = split_config(data, split, self.folders.pictures(cell.data))
            self._sets[key] = load_tensors(
                dataset,
                recipe=recipe,
                task=data.task,
                protected_root=root,
                defend=self._defend(cell, split),
                is_test=split == "test",
            )
        self._sets.move_to_end(key)
        while len(self._sets) > _KEPT_SETS:
            self._sets.popitem(last=False)
        return self._sets[key]

    def _defence_key(self, cell: Cell, split: str) -> tuple[Any, ...]:
        """What a defended set depends on: the defence, and what it was fitted to or drew."""
        defence = picture_defence(cell.defence)
        if split == "test":
            return (defence,)
        published = (cell.method, cell.epsilon, cell.epsilon_bg, cell.clean_share, cell.is_twin)
        return (
            defence,
            published if learnt_defences(defence) else None,
            cell.seed if is_drawn(defence) else None,
        )

    def _defend(self, cell: Cell, split: str) -> Defend:
        if split == "test":
            return defence_at_test(cell.defence)
        known = None
        if learnt_defences(cell.defence):
            known = trainer_knowledge(cell, self.config, self.folders)
        return ready_defence(cell.defence, known, seed=cell.seed)


@dataclass(frozen=True)
class CellData:
    """What one cell learns from and is scored on.

    Attributes:
        train: training pictures.
        validation: pictures to choose the epoch with, in the same state; None where there are none.
        clean_test: clean test pictures.
        protected_test: protected test pictures; None for clean training.
        epoch_size: pictures in an epoch; a twin's fewer pictures are repeated up to it, so that it
            gets as many steps as the mixture it belongs to.
        clean_part: clean training pictures that the trainer has, where his defence needs some.
    """

    train: TensorSet
    validation: TensorSet | None
    clean_test: TensorSet
    protected_test: TensorSet | None
    epoch_size: int
    clean_part: TensorSet | None = None


def assemble(cell: Cell, config: EvaluateConfig, cache: TensorCache) -> CellData:
    """The sets of a cell, mixtures and twins included."""
    published = cache.get(cell, "train", is_protected=cell.method != CLEAN)
    keys = published.keys
    held = validation_rows(keys, config.data[cell.data].validation_share)
    kept = set(held)
    rows = [i for i in range(len(keys)) if i not in kept]
    protected_test = None
    if cell.method != CLEAN:
        if cell.clean_share:
            clean = cache.get(cell, "train", is_protected=False)
            published = mixed(published, clean, cell.clean_share, seed=cell.seed)
        if protected_root(config, cache.folders, cell, "test") is not None:
            protected_test = cache.get(cell, "test", is_protected=True)
    epoch_size = len(rows)
    if cell.is_twin:
        part = set(clean_rows(keys, cell.clean_share, seed=cell.seed))
        rows, held = [i for i in rows if i in part], [i for i in held if i in part]
    if not rows:
        raise ValueError(f"{cell.name}: no training picture is left; lower validation_share")
    return CellData(
        train=published.select(rows),
        validation=published.select(held) if held else None,
        clean_test=cache.get(cell, "test", is_protected=False),
        protected_test=protected_test,
        epoch_size=epoch_size,
        clean_part=_clean_part(cell, cache, rows),
    )


def _clean_part(cell: Cell, cache: TensorCache, rows: list[int]) -> TensorSet | None:
    """So many percent of the training pictures, clean; a larger part contains every smaller one."""
    percent = training_defences(cell.defence).get("dfr")
    if percent is None:
        return None
    clean = cache.get(cell, "train", is_protected=False).select(rows)
    part = clean_rows(clean.keys, percent / 100, seed=cell.seed)
    if not part:
        raise UserError(f"{cell.name}: {percent:g} % of {len(rows)} pictures is none; raise dfr")
    return clean.select(part)


def build_task(dataset: DatasetConfig, section: VictimDataConfig, recipe: RecipeConfig) -> Task:
    """The task that a data set is used for.

    Args:
        dataset: its training split.
        section: names the task and the classes that the score is a mean over.
        recipe: says how many pictures are scored at once, and how precisely.
    """
    common: dict[str, Any] = {
        "num_classes": num_classes(dataset, section.task),
        "task": section.task,
        "score_classes": section.score_classes,
        "batch_size": recipe.eval_batch_size,
        "precision": recipe.precision,
    }
    if section.task in DENSE_TASKS:
        return ClassMapTask(**common)
    ranks = object_ranks(dataset, section.task) or {}
    things = frozenset(ranks[i] for i in build_source(dataset).thing_ids if i in ranks)
    parts = section.test.parts if section.test is not None else ()
    return ObjectTask(**common, things=things, groups=tuple(part.images for part in parts))


def run_cell(
    cell: Cell,
    config: EvaluateConfig,
    folders: GridFolders,
    cache: TensorCache,
    device: torch.device,
    *,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Train and score one cell, from its last state where it was stopped; writes its result.

    Args:
        cell: which.
        config: of the grid.
        folders: of the grid.
        cache: of pictures.
        device: where.
        origin: recorded in the result as it is.

    Returns:
        The content of `result.json`.
    """
    folder = folders.cell(cell)
    section = config.data[cell.data]
    entry = config.victims[cell.victim]
    data = assemble(cell, config, cache)
    dataset = split_config(section, "train", folders.pictures(cell.data))
    task = build_task(dataset, section, entry.recipe)
    # One cell's weights depend on its seed alone, never on what ran before it in this process.
    torch.manual_seed(derive_seed(cell.seed, "victim weights") % 2**32)
    victim = build_victim(
        entry.arch,
        num_classes=task.num_classes,
        tiny=entry.tiny,
        width=entry.width,
        encoder=entry.encoder,
        weights=entry.weights,
        weights_path=entry.weights_path,
        image_size=entry.recipe.image_size,
        train_only=entry.train_only,
    ).to(device)
    saver = StateSaver(folder / STATE, every=config.checkpoint_seconds)
    started = time.monotonic()
    state = fit(
        victim,
        data.train,
        recipe=entry.recipe,
        task=task,
        validation=data.validation,
        clean_test=data.clean_test,
        clean_part=data.clean_part,
        seed=cell.seed,
        epoch_size=data.epoch_size,
        defence=cell.defence,
        state=saver.load(),
        on_epoch=saver,
    )
    result = {
        "cell": asdict(cell),
        "metric": task.metric,
        "floor": task.floor(data.clean_test),
        "num_train": len(data.train),
        "num_validation": 0 if data.validation is None else len(data.validation),
        "num_test": len(data.clean_test),
        "num_parameters": sum(p.numel() for p in victim.parameters()),
        "scores": _scores(victim, state, task, data),
        "curve": state.curve,
        "seconds": round(time.monotonic() - started, 1),
        "device": str(device),
        "origin": dict(origin),
    }
    _write_examples(folder, victim, task, data, config.num_examples)
    with atomic_write(folder / RESULT, "w") as file:
        json.dump(result, file, indent=1)
    (folder / STATE).unlink(missing_ok=True)
    return result


def _scores(
    victim: Victim, state: FitState, task: Task, data: CellData
) -> dict[str, dict[str, Any]]:
    """Scores of the last, the best and the selected epoch; the victim ends as the selected one."""

    def both(epoch: int) -> dict[str, Any]:
        scores: dict[str, Any] = {"epoch": epoch}
        scores["clean_test"] = task.details(victim, data.clean_test)
        if data.protected_test is not None:
            scores["protected_test"] = task.details(victim, data.protected_test)
        return scores

    last = both(state.epoch)
    victim.load_state_dict(state.selected)
    selected = both(state.selected_epoch)
    best = max(state.curve, key=lambda row: row["clean_test"])
    return {
        "selected": selected,
        "last": last,
        "best": {"epoch": int(best["epoch"]), "clean_test": {"score": best["clean_test"]}},
    }


class StateSaver:
    """Writes a fit's state now and then, and finds it again.

    Args:
        path: the file.
        every: seconds of training between two writes.
    """

    def __init__(self, path: Path, *, every: float) -> None:
        self.path, self.every = path, every
        self._last = time.monotonic()

    def __call__(self, state: FitState) -> None:
        """Write where it is time."""
        if time.monotonic() - self._last < self.every:
            return
        values = {**vars(state)}
        buffer = io.BytesIO()
        torch.save(values, buffer)
        atomic_write_bytes(self.path, buffer.getvalue())
        self._last = time.monotonic()

    def load(self) -> FitState | None:
        """The last state on the CPU, or None.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        values = read_weight_file(self.path, remedy="delete it and the cell begins again").content
        _log.info("%s: goes on after epoch %d", self.path.parent.name, values["epoch"])
        return FitState(**values)


def _write_examples(folder: Path, victim: Victim, task: Task, data: CellData, count: int) -> None:
    """Predictions of a few test pictures, for the report; they stay in the run directory."""
    total = len(data.clean_test)
    rows = [total * i // count for i in range(min(count, total))] if count else []
    if not rows:
        return
    chosen = data.clean_test.select(rows)
    labels, predicted = task.label_maps(victim, chosen)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=chosen.images.permute(0, 2, 3, 1).numpy(),
        labels=labels.numpy(),
        predicted=predicted.numpy(),
        extents=chosen.extents.numpy(),
    )
    atomic_write_bytes(folder / EXAMPLES, buffer.getvalue())
