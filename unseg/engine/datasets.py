"""The data sets and loaders that a configuration's `data` means."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from unseg.config.train import DataConfig
from unseg.data.header_check import check_dataset
from unseg.data.hqseg import VALIDATION_PARTS, open_hqseg, open_list, open_part
from unseg.data.loader import TrainLoader
from unseg.data.pairs import DataError, Dataset, Joined
from unseg.data.validation import ValidationLoader
from unseg.io.files import atomic_write, path_below
from unseg.models import Generator, Surrogate
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaders:
    """What a run reads.

    Attributes:
        train: training batches.
        validation: set name -> its loader.
        train_names: names of the training samples, in order; a checkpoint remembers their digest.
    """

    train: TrainLoader
    validation: dict[str, ValidationLoader]
    train_names: list[str]

    def report_skipped(self, run_dir: Path) -> None:
        """Say how many samples could not be used, and list them in `skipped.tsv`."""
        skipped = [("train", *pair) for pair in self.train.skipped]
        for name, loader in self.validation.items():
            skipped += [(name, *pair) for pair in loader.skipped]
        if not skipped:
            return
        _log.warning("%d samples were skipped; see skipped.tsv", len(skipped))
        with atomic_write(run_dir / "skipped.tsv", "w") as file:
            file.writelines("\t".join(" ".join(f.split()) for f in row) + "\n" for row in skipped)


def build_loaders(
    data: DataConfig,
    generator: Generator | None,
    surrogate: Surrogate,
    *,
    batch_size: int,
    validation_batch_size: int,
    validation_limit: int | None,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Loaders:
    """Check every file's header, then make the loaders of this rank.

    Args:
        data: which pairs.
        generator: the player whose frame batches come in, or None for the surrogate's own.
        surrogate: the other player.
        batch_size: of a global training batch.
        validation_batch_size: of one forward pass on one rank.
        validation_limit: samples of each validation set, or None for all.
        seed: of the run.
        device: where training batches are wanted.
        rank: of this process, which gets its share of each batch.
        world_size: processes.

    Raises:
        UserError: folders, lists or files are missing or faulty; all of them are named at once.
    """
    dataset = check_dataset(open_training(data), skip_faulty=data.skip_faulty)
    validation = {
        name: check_dataset(part, skip_faulty=data.skip_faulty)
        for name, part in open_validation(data, validation_limit).items()
    }
    image_size = surrogate.image_size if generator is None else generator.image_size
    train = TrainLoader(
        dataset,
        image_size=image_size,
        generator_mask_size=surrogate.logit_size if generator is None else generator.noise_size,
        surrogate_image_size=surrogate.image_size,
        surrogate_mask_size=surrogate.logit_size,
        batch_size=batch_size,
        seed=seed,
        num_workers=data.num_workers,
        rank=rank,
        world_size=world_size,
        device=device,
    )
    return Loaders(
        train=train,
        validation={
            name: ValidationLoader(
                part,
                image_size=image_size,
                surrogate_image_size=surrogate.image_size,
                batch_size=validation_batch_size,
                num_workers=data.num_workers,
                rank=rank,
                world_size=world_size,
                limit=validation_limit,
            )
            for name, part in validation.items()
        },
        train_names=[dataset.sample_name(i) for i in range(len(dataset))],
    )


def open_training(data: DataConfig) -> Dataset:
    """The training set, unchecked."""
    root = _root(data)
    parts: list[Dataset] = []
    if data.source == "synthetic":
        from unseg.data.synthetic import Synthetic

        parts.append(Synthetic(data.num_synthetic, image_size=data.synthetic_size))
    elif data.source == "hqseg44k":
        parts.append(open_hqseg(root))
    else:
        parts += _open_lists(data, data.train_lists, root)
    if data.coco_instances is not None and data.coco_images is not None:
        from unseg.data.coco_instances import open_coco_instances

        parts.append(
            open_coco_instances(
                path_below(root, data.coco_instances),
                path_below(root, data.coco_images),
                min_share=data.min_instance_share,
                links_to=data.links_to,
            )
        )
    return parts[0] if len(parts) == 1 else Joined(parts)


def open_validation(data: DataConfig, limit: int | None) -> dict[str, Dataset]:
    """The validation sets by name, unchecked."""
    if data.source == "synthetic":
        from unseg.data.synthetic import Synthetic

        count = limit or 64
        return {"synthetic": Synthetic(count, image_size=data.synthetic_size, split="test")}
    root = _root(data)
    if data.source == "hqseg44k":
        return {name: open_part(name, root) for name in VALIDATION_PARTS}
    return {part.name: part for part in _open_lists(data, data.validation_lists, root)}


def _root(data: DataConfig) -> Path:
    root = Path(data.root)
    if data.source != "synthetic" and not root.is_dir():
        raise UserError(
            f"data.root={data.root}: no such folder; give the one with the data (docs/DATASETS.md)"
        )
    return root


def _open_lists(data: DataConfig, names: tuple[str, ...], root: Path) -> list[Dataset]:
    """One data set a list; the faults of all lists at once."""
    opened: list[Dataset] = []
    problems: list[str] = []
    for name in names:
        try:
            opened.append(
                open_list(
                    path_below(root, name),
                    root,
                    folders=data.list_folders,
                    links_to=data.links_to,
                )
            )
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return opened
