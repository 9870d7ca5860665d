"""What the trainer of a cell knows, for defences that learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from unseg.config.evaluate import CLEAN, EvaluateConfig
from unseg.data.annotations.tree import Inside, twin_folder
from unseg.io.decode import read_rgb
from unseg.utils import distributed
from unseg.victims.data.defences import learnt_defences
from unseg.victims.data.defences.base import MAX_PICTURES, Defend, Known, PublishedPicture
from unseg.victims.data.load import PictureFiles, as_image, protected_file
from unseg.victims.data.splits import make_pictures, split_config
from unseg.victims.grid.cells import Cell, GridFolders
from unseg.victims.grid.protected_sets import (
    make_protected_again,
    make_protected_by_trainer,
    protected_root,
)


def trainer_knowledge(cell: Cell, config: EvaluateConfig, folders: GridFolders) -> Known:
    """What a cell's trainer has; what the public generator makes for him is made here, once.

    In a mixture the defence is fitted to the protected set alone.
    """
    data = config.data[cell.data]
    dataset = split_config(data, "train", folders.pictures(cell.data))
    root = None if cell.method == CLEAN else protected_root(config, folders, cell, "train")
    pictures = PictureFiles(dataset, data.task, root)
    known = Known(pictures, min(MAX_PICTURES, len(pictures)), seed=cell.seed)
    entries = learnt_defences(cell.defence)
    if any(entry.needs_pairs for entry in entries):
        known = replace(known, pairs=_pairs(cell, config, folders))
    if any(entry.needs_generator and not entry.needs_pairs for entry in entries):
        assert root is not None
        again = make_protected_again(config, folders, cell)
        known = replace(known, noise_again=_noise_again(twin_folder(dataset, root), Inside(again)))
    return known


@dataclass(frozen=True)
class _Pairs:
    """Clean pictures, and what the public generator makes of them."""

    clean: PictureFiles
    protected: PictureFiles

    def __iter__(self) -> Iterator[tuple[PublishedPicture, Tensor]]:
        for clean, protected in zip(self.clean, self.protected, strict=True):
            yield clean, protected.image


def _pairs(cell: Cell, config: EvaluateConfig, folders: GridFolders) -> _Pairs:
    name = config.data[cell.data].public
    assert name is not None
    public = replace(cell, data=name)
    data = config.data[name]
    distributed.from_main(lambda: make_pictures(data, folders.pictures(name)))
    root = make_protected_by_trainer(config, folders, public)
    dataset = split_config(data, "train", folders.pictures(name))
    clean = PictureFiles(dataset, data.task)
    return _Pairs(clean, replace(clean, protected_root=root))


def _noise_again(published: Inside, again: Inside) -> Defend:
    def noise(picture: PublishedPicture) -> Tensor:
        before, after = (
            as_image(read_rgb(protected_file(folder, picture.key))) for folder in (published, again)
        )
        return after - before

    return noise
