"""The splits of a data set: where their clean pictures lie, writing reduced ones, validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import DENSE_TASKS, VictimDataConfig
from unseg.data.annotations import build_source
from unseg.io.decode import read_rgb
from unseg.io.files import atomic_write_bytes
from unseg.io.locks import locked
from unseg.utils.errors import UserError
from unseg.utils.logging import Progress
from unseg.utils.seed import derive_seed
from unseg.victims.data.label_files import OBJECT_FORMATS, LabelWriter, components, label_config
from unseg.victims.data.load import has_open_background, training_label
from unseg.victims.data.tensor_set import IGNORED_LABEL

if TYPE_CHECKING:
    from unseg.types import Sample

SPLITS = ("train", "test")


def split_config(data: VictimDataConfig, split: str, folder: Path) -> DatasetConfig:
    """Where a split's clean pictures lie in the size in which they are protected.

    Args:
        data: the data set.
        split: "train" or "test".
        folder: of the pictures that `make_pictures` writes, where it has to.
    """
    if _keeps_objects(data, split):
        source = getattr(data, split)
        if source is None:
            return label_config(folder / split, "coco")
        return replace(label_config(folder / split, source.format), links_to=source.links_to)
    if data.synthetic is not None:
        return DatasetConfig(
            format="class_png",
            root=str(folder / split),
            images="images",
            labels="labels",
            class_names=("background", "object"),
            background=(0,),
            void=(IGNORED_LABEL,),
        )
    source = getattr(data, split)
    if data.protect_size is None:
        return source
    adapter = build_source(source)
    names = [adapter.class_names[i] for i in sorted(adapter.class_names)]
    rank = {class_id: i for i, class_id in enumerate(sorted(adapter.class_names))}
    shift = int(has_open_background(source))
    if len(names) + shift > IGNORED_LABEL:
        raise UserError(f"{source.root}: {len(names)} classes do not fit a label of 8 bits")
    background = {rank[i] + shift for i in source.background if i in rank}
    if shift or source.format in ("binary_mask", "folder"):
        background.add(0)
    return DatasetConfig(
        format="class_png",
        root=str(folder / split),
        images="images",
        labels="labels",
        class_names=tuple(["background"] * shift + names),
        background=tuple(sorted(background)),
        things=tuple(sorted(rank[i] + shift for i in adapter.thing_ids if i in rank)),
        void=(IGNORED_LABEL,),
    )


def _keeps_objects(data: VictimDataConfig, split: str) -> bool:
    """Whether the written labels must know objects, which class pictures do not."""
    if data.task in DENSE_TASKS:
        return False
    if data.synthetic is not None:
        return True
    return data.protect_size is not None and getattr(data, split).format in OBJECT_FORMATS


def make_pictures(data: VictimDataConfig, folder: Path) -> None:
    """Write the clean pictures of a data set in the size in which they are protected.

    Does nothing where the data set's own files serve, or where another process has done it.
    """
    if data.synthetic is None and data.protect_size is None:
        return
    with locked(folder, wait=True):
        for split in SPLITS:
            done = folder / split / "complete"
            if not done.exists():
                _make_split(data, split, folder / split)
                atomic_write_bytes(done, b"")


def _make_split(data: VictimDataConfig, split: str, folder: Path) -> None:
    if data.synthetic is not None:
        _make_scenes(data, split, folder)
        return
    dataset: DatasetConfig = getattr(data, split)
    source = build_source(dataset)
    class_ids = sorted(source.class_names)
    writer = None
    if _keeps_objects(data, split):
        writer = LabelWriter.like(label_config(folder, dataset.format), source)
    items = source.items()
    with Progress(len(items), f"reduce {split}") as progress:
        for item in items:
            annotation = source.read(item)
            image = read_rgb(item.image_path, max_pixels=dataset.max_pixels)
            side = data.protect_size
            frame = _reduced_size(*annotation.size, long_side=side)
            if data.protect_square and side is not None:
                frame = (side, side)
            label = None
            if writer is None:
                label = training_label(
                    annotation,
                    task="semantic",
                    class_ids=class_ids,
                    open_background=has_open_background(dataset),
                )
            else:
                writer.add(_png(item.key), annotation, frame)
            _write_pair(folder, item.key, image, label, annotation.size, frame)
            progress.update()
    if writer is not None:
        writer.close()


def _make_scenes(data: VictimDataConfig, split: str, folder: Path) -> None:
    writer = None
    if _keeps_objects(data, split):
        names = {1: "object"}
        writer = LabelWriter(label_config(folder, "coco"), names, frozenset(names))
    for sample in synthetic_samples(data, split):
        mask, size = sample.mask > 0, sample.mask.shape
        label = None if writer else mask.astype(np.uint8)
        _write_pair(folder, sample.name, sample.image, label, size, size)
        if writer is not None:
            writer.add(_png(sample.name), components(mask), size)
    if writer is not None:
        writer.close()


def synthetic_samples(data: VictimDataConfig, split: str) -> list[Sample]:
    """The scenes of a synthetic split, each under a name of its own."""
    from unseg.data.synthetic import Synthetic

    section = data.synthetic
    assert section is not None
    count = section.num_train if split == "train" else section.num_test
    scenes = Synthetic(count, image_size=section.image_size, seed=section.seed, split=split)
    return [scenes[i] for i in range(count)]


def _write_pair(
    folder: Path,
    key: str,
    image: np.ndarray,
    label: np.ndarray | None,
    size: tuple[int, int],
    frame: tuple[int, int],
) -> None:
    """A picture, and its label map where it has one, brought from `size` to `frame`."""
    import cv2

    if image.shape[:2] != size:
        raise UserError(f"{key}: label is {size} (H, W) but the picture {image.shape[:2]}")
    height, width = frame
    if frame != size:
        # Area averaging is what a careful trainer's reduction does; labels keep their values.
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        if label is not None:
            label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    for part, pixels in (("images", np.ascontiguousarray(image[..., ::-1])), ("labels", label)):
        if pixels is None:
            continue
        path = folder / part / _png(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_encoded, data = cv2.imencode(".png", pixels)
        assert is_encoded
        atomic_write_bytes(path, data.tobytes())


def _png(key: str) -> str:
    return PurePosixPath(key).with_suffix(".png").as_posix()


def _reduced_size(height: int, width: int, *, long_side: int | None) -> tuple[int, int]:
    """Size of a picture whose long side is reduced to `long_side`, never enlarged."""
    if long_side is None or max(height, width) <= long_side:
        return height, width
    scale = long_side / max(height, width)
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def validation_rows(keys: Sequence[str], share: float) -> list[int]:
    """Training pictures kept back for choosing epochs; they depend on the names alone."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("validation", keys[i]))
    return sorted(ranked[: round(share * len(keys))])
