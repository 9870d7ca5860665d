"""From data sets on the disk to what a victim learns from: published pictures, their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import DENSE_TASKS, DataConfig, RecipeConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.base import Annotation, contiguous_classes
from unseg.io.files import atomic_write_bytes, read_rgb, resolve_inside
from unseg.io.locks import locked
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError
from unseg.utils.logging import Progress
from unseg.utils.seed import derive_seed
from unseg.victims.data.defences import apply_defence
from unseg.victims.data.label_files import OBJECT_FORMATS, LabelWriter, components, label_config
from unseg.victims.data.segments import Segments, segments_of
from unseg.victims.data.tensor_set import VOID, TensorSet, fit_frame, frame_of

if TYPE_CHECKING:
    from unseg.types import Sample

SPLITS = ("train", "test")


def split_config(data: DataConfig, split: str, folder: Path) -> DatasetConfig:
    """Where a split's clean pictures lie in the size in which they are protected.

    Args:
        data: the data set.
        split: "train" or "test".
        folder: of the pictures that `make_pictures` writes, where it has to.
    """
    if _keeps_objects(data, split):
        source = getattr(data, split)
        return label_config(folder / split, "coco" if source is None else source.format)
    if data.synthetic is not None:
        return DatasetConfig(
            format="class_png",
            root=str(folder / split),
            images="images",
            labels="labels",
            class_names=("background", "object"),
            background=(0,),
            void=(VOID,),
        )
    source = getattr(data, split)
    if data.protect_size is None:
        return source
    adapter = build_source(source)
    names = [adapter.class_names[i] for i in sorted(adapter.class_names)]
    rank = {class_id: i for i, class_id in enumerate(sorted(adapter.class_names))}
    shift = int(_has_open_background(source))
    if len(names) + shift > VOID:
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
        void=(VOID,),
    )


def _keeps_objects(data: DataConfig, split: str) -> bool:
    """Whether the written labels must know objects, which class pictures do not."""
    if data.task in DENSE_TASKS:
        return False
    if data.synthetic is not None:
        return True
    return data.protect_size is not None and getattr(data, split).format in OBJECT_FORMATS


def _has_open_background(dataset: DatasetConfig) -> bool:
    """Whether pixels without an annotation are background rather than void."""
    return dataset.format == "coco"


def make_pictures(data: DataConfig, folder: Path) -> None:
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


def _make_split(data: DataConfig, split: str, folder: Path) -> None:
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
            frame = frame_of(*annotation.size, long_side=side)
            if data.protect_square and side is not None:
                frame = (side, side)
            label = None
            if writer is None:
                label = training_label(
                    annotation,
                    task="semantic",
                    class_ids=class_ids,
                    open_background=_has_open_background(dataset),
                )
            else:
                writer.add(_png(item.key), annotation, frame)
            _write_pair(folder, item.key, image, label, annotation.size, frame)
            progress.update()
    if writer is not None:
        writer.close()


def _make_scenes(data: DataConfig, split: str, folder: Path) -> None:
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


def synthetic_samples(data: DataConfig, split: str) -> list[Sample]:
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


def training_label(
    annotation: Annotation, *, task: str, class_ids: Sequence[int], open_background: bool = False
) -> np.ndarray:
    """(H, W) uint8 classes that a victim learns, `VOID` where a pixel does not count.

    Args:
        annotation: of one picture.
        task: "foreground": 1 on every object, 0 elsewhere; "semantic": rank of the class id.
        class_ids: the data set's ids in rising order.
        open_background: pixels of no object are background (class 0, the others one up), not void.
    """
    is_void = annotation.class_map == VOID_CLASS
    if task == "semantic":
        label = contiguous_classes(annotation.class_map, class_ids)
        is_void |= label == VOID_CLASS
        label = label + int(open_background)
    else:
        label = np.zeros(annotation.size, np.int32)
        for segment in annotation.segments:
            if not segment.is_crowd:
                label[segment.mask] = 1
    label[is_void] = 0 if open_background else VOID
    for segment in annotation.segments:
        if segment.is_crowd:
            label[segment.mask] = VOID
    return label.astype(np.uint8)


def load_tensors(
    dataset: DatasetConfig,
    *,
    recipe: RecipeConfig,
    task: str,
    protected_root: Path | None = None,
    defence: str = "none",
    is_test: bool = False,
) -> TensorSet:
    """A whole split, decoded, defended and brought into the victim's frame.

    Args:
        dataset: the clean pictures and the labels.
        recipe: gives the frame and where scores are taken.
        task: of the data section.
        protected_root: folder of the same pictures after protection, to be read instead.
        defence: written defence, applied at the pictures' own size.
        is_test: only those defences that act on test pictures.

    Raises:
        UserError: a picture or its label is missing, damaged or of another size.
    """
    source = build_source(dataset)
    class_ids = sorted(source.class_names)
    rank = object_ranks(dataset, task)
    images, labels, extents, keys = [], [], [], []
    native: list[np.ndarray] = []
    segments: list[Segments] = []
    native_segments: list[Segments] = []
    for item in source.items():
        annotation = source.read(item)
        if not annotation.has_region:
            raise UserError(f"{item.key}: boxes and points are no labels to train a victim with")
        label = training_label(
            annotation,
            task=task,
            class_ids=class_ids,
            open_background=_has_open_background(dataset),
        )
        path = item.image_path if protected_root is None else _protected(protected_root, item.key)
        pixels = read_rgb(path, max_pixels=dataset.max_pixels)
        if pixels.shape[:2] != label.shape:
            raise UserError(f"{path}: is {pixels.shape[:2]} (H, W) but its label is {label.shape}")
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        image = apply_defence(image[None], defence, at_test=is_test)[0]
        framed, classes, extent = fit_frame(
            image,
            torch.from_numpy(label),
            side=recipe.image_size,
            keep_ratio=recipe.keep_ratio,
            antialias=recipe.antialias,
        )
        images.append(framed)
        labels.append(classes)
        extents.append(torch.tensor(extent))
        keys.append(item.key)
        is_native = is_test and recipe.score_at == "native"
        if task in DENSE_TASKS:
            native += [label] * is_native
            continue
        objects = segments_of(annotation, rank, open_background=_has_open_background(dataset))
        native_segments += [objects] * is_native
        segments.append(objects.resized(extent, side=recipe.image_size))
    if not keys:
        raise UserError(f"{dataset.root}: no pictures; see `unseg data check`")
    return TensorSet(
        images=torch.stack(images),
        labels=torch.stack(labels),
        keys=tuple(keys),
        extents=torch.stack(extents),
        native_labels=tuple(native) or None,
        segments=tuple(segments) or None,
        native_segments=tuple(native_segments) or None,
    )


def num_classes(dataset: DatasetConfig, task: str) -> int:
    """Classes of a victim."""
    if task == "foreground":
        return 2
    if task not in DENSE_TASKS:
        ranks = object_ranks(dataset, task)
        return 1 if ranks is None else len(ranks)
    return len(build_source(dataset).class_names) + int(_has_open_background(dataset))


def object_ranks(dataset: DatasetConfig, task: str) -> dict[int, int] | None:
    """The victim's class of each class id whose segments it learns.

    Panoptic: all but background; instance and detection: the countable ones, where the data set
    says which those are. None: any segment is an object (interactive), or the task knows none.
    """
    if task == "interactive" or task in DENSE_TASKS:
        return None
    source = build_source(dataset)
    ground = set(dataset.background) | (
        {0} if dataset.format in ("binary_mask", "folder") else set()
    )
    ids = [i for i in sorted(source.class_names) if i not in ground]
    things = [i for i in ids if i in source.thing_ids]
    if task != "panoptic" and things:
        ids = things
    return {class_id: rank for rank, class_id in enumerate(ids)}


def _protected(root: Path, key: str) -> Path:
    """The protected picture of a key; its suffix may differ, since lossless files may be PNG."""
    path = resolve_inside(root, key)
    if path.is_file():
        return path
    for suffix in (".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg"):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    raise UserError(f"{root}: holds no protected picture of {key}; protect the whole set first")


def picture_pairs(dataset: DatasetConfig, protected_root: Path) -> list[tuple[Path, Path]]:
    """(clean, protected) files of a split."""
    return [
        (i.image_path, _protected(protected_root, i.key)) for i in build_source(dataset).items()
    ]


def validation_rows(keys: Sequence[str], share: float) -> list[int]:
    """Pictures kept back for choosing epochs; they depend on the names alone."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("validation", keys[i]))
    return sorted(ranked[: round(share * len(keys))])


def clean_rows(keys: Sequence[str], share: float, *, seed: int) -> list[int]:
    """Pictures that stay clean in a mixture; a larger share contains every smaller one."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("clean share", seed, keys[i]))
    return sorted(ranked[: round(share * len(keys))])
