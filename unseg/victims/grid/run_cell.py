"""One cell from its pictures to its result."""

from __future__ import annotations

import io
import json
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
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed
from unseg.utils.signals import stop_signals
from unseg.victims.data.defences import (
    defence_at_test,
    is_drawn,
    learnt_defences,
    picture_defence,
    ready_defence,
    training_defences,
)
from unseg.victims.data.defences.base import Defend
from unseg.victims.data.load import FramedPictures, num_classes, object_ranks
from unseg.victims.data.mixtures import clean_rows, mixed
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.picture_set import PictureSet
from unseg.victims.data.splits import split_config, validation_rows
from unseg.victims.grid.cells import Cell, GridFolders
from unseg.victims.grid.knowledge import trainer_knowledge
from unseg.victims.grid.protected_sets import protected_root
from unseg.victims.grid.saved_state import STATE, StateSaver
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.training.class_map_task import ClassMapTask, Task
from unseg.victims.training.fit import FitState, fit
from unseg.victims.training.object_tasks import ObjectTask

RESULT, EXAMPLES = "result.json", "examples.npz"
GIB = 2**30
_KEPT_SOURCES = 6


class PictureSets:
    """The sets of a grid's cells; what is decoded of them stays in one bounded cache."""

    def __init__(self, config: EvaluateConfig, folders: GridFolders, num_workers: int = 0) -> None:
        self.config, self.folders, self.num_workers = config, folders, num_workers
        self.cache = PictureCache()
        self._sources: OrderedDict[tuple[Any, ...], FramedPictures] = OrderedDict()

    def begin(self, cell: Cell) -> None:
        """The sets of other cells may leave the cache from now on."""
        recipe = self.config.victims[cell.victim].recipe
        self.cache.begin_cell(int(recipe.cache_gib * GIB))

    def get(self, cell: Cell, split: str, *, is_protected: bool) -> PictureSet:
        """A split in the frame of the cell's victim, after the cell's defence."""
        root = protected_root(self.config, self.folders, cell, split) if is_protected else None
        data = self.config.data[cell.data]
        recipe = self.config.victims[cell.victim].recipe
        frame = (recipe.image_size, recipe.keep_ratio, recipe.antialias, recipe.score_at)
        name = (cell.data, split, root, frame, *self._defence_key(cell, split))
        if name not in self._sources:
            self._sources[name] = FramedPictures(
                split_config(data, split, self.folders.pictures(cell.data)),
                recipe=recipe,
                task=data.task,
                protected_root=root,
                defend=self._defend(cell, split),
                is_test=split == "test",
                name=name,
            )
        self._sources.move_to_end(name)
        while len(self._sources) > _KEPT_SOURCES:
            self._sources.popitem(last=False)
        self.cache.use(name)
        return PictureSet.of(self._sources[name], self.cache, num_workers=self.num_workers)

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

    train: PictureSet
    validation: PictureSet | None
    clean_test: PictureSet
    protected_test: PictureSet | None
    epoch_size: int
    clean_part: PictureSet | None = None


def assemble(cell: Cell, config: EvaluateConfig, sets: PictureSets) -> CellData:
    """The sets of a cell, mixtures and twins included."""
    sets.begin(cell)
    published = sets.get(cell, "train", is_protected=cell.method != CLEAN)
    keys = published.keys
    held = validation_rows(keys, config.data[cell.data].validation_share)
    kept = set(held)
    rows = [i for i in range(len(keys)) if i not in kept]
    protected_test = None
    if cell.method != CLEAN:
        if cell.clean_share:
            clean = sets.get(cell, "train", is_protected=False)
            published = mixed(published, clean, cell.clean_share, seed=cell.seed)
        if protected_root(config, sets.folders, cell, "test") is not None:
            protected_test = sets.get(cell, "test", is_protected=True)
    epoch_size = len(rows)
    if cell.is_twin:
        part = set(clean_rows(keys, cell.clean_share, seed=cell.seed))
        rows, held = [i for i in rows if i in part], [i for i in held if i in part]
    if not rows:
        raise ValueError(f"{cell.name}: no training picture is left; lower validation_share")
    return CellData(
        train=published.select(rows),
        validation=published.select(held) if held else None,
        clean_test=sets.get(cell, "test", is_protected=False),
        protected_test=protected_test,
        epoch_size=epoch_size,
        clean_part=_clean_part(cell, sets, rows),
    )


def _clean_part(cell: Cell, sets: PictureSets, rows: list[int]) -> PictureSet | None:
    """So many percent of the training pictures, clean; a larger part contains every smaller one."""
    percent = training_defences(cell.defence).get("dfr")
    if percent is None:
        return None
    clean = sets.get(cell, "train", is_protected=False).select(rows)
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


@dataclass(frozen=True)
class PreparedCell:
    """A cell that can be trained: its pictures, its task and its victim."""

    cell: Cell
    data: CellData
    task: Task
    victim: Victim


def prepare_cell(
    cell: Cell,
    config: EvaluateConfig,
    folders: GridFolders,
    sets: PictureSets,
    device: torch.device,
) -> PreparedCell:
    """What a cell needs before its training begins."""
    section, entry = config.data[cell.data], config.victims[cell.victim]
    data = assemble(cell, config, sets)
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
    return PreparedCell(cell, data, task, victim)


def run_cell(
    ready: PreparedCell, config: EvaluateConfig, folder: Path, *, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Train and score one cell, from its last state where it was stopped; writes its result.

    Args:
        ready: which.
        config: of the grid.
        folder: of the cell.
        origin: recorded in the result as it is.

    Returns:
        The content of `result.json`.
    """
    cell, data, task, victim = ready.cell, ready.data, ready.task, ready.victim
    started = time.monotonic()
    with stop_signals() as asked:
        saver = StateSaver(
            folder / STATE,
            seconds=config.checkpoint_seconds,
            steps=config.checkpoint_steps,
            asked=asked,
        )
        state = fit(
            victim,
            data.train,
            recipe=config.victims[cell.victim].recipe,
            task=task,
            validation=data.validation,
            clean_test=data.clean_test,
            clean_part=data.clean_part,
            seed=cell.seed,
            epoch_size=data.epoch_size,
            defence=cell.defence,
            state=saver.load(),
            keeper=saver,
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
        "device": str(next(victim.parameters()).device),
        "ranks": distributed.world_size(),
        "origin": dict(origin),
    }
    if distributed.is_main():
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


def _write_examples(folder: Path, victim: Victim, task: Task, data: CellData, count: int) -> None:
    """Predictions of a few test pictures, for the report; they stay in the run directory."""
    total = len(data.clean_test)
    rows = [total * i // count for i in range(min(count, total))] if count else []
    if not rows:
        return
    chosen = data.clean_test.load(rows)
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
