"""From data sets on the disk to what a victim learns from: published pictures, their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import DataConfig, RecipeConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.base import VOID as NO_CLASS
from unseg.data.annotations.base import Annotation, contiguous_classes
from unseg.utils.errors import UserError
from unseg.utils.files import atomic_write_bytes, read_rgb, resolve_inside
from unseg.utils.logging import Progress
from unseg.utils.seed import derive_seed
from unseg.victims.cells import locked
from unseg.victims.defences import apply_defence
from unseg.victims.tensors import VOID, TensorSet, fit_frame, frame_of

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
    source: DatasetConfig = getattr(data, split)
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
        for sample in synthetic_samples(data, split):
            _write_pair(folder, sample.name, sample.image, (sample.mask > 0).astype(np.uint8), None)
        return
    dataset: DatasetConfig = getattr(data, split)
    source = build_source(dataset)
    class_ids = sorted(source.class_names)
    items = source.items()
    with Progress(len(items), f"reduce {split}") as progress:
        for item in items:
            annotation = source.read(item)
            label = training_label(
                annotation,
                task="semantic",
                class_ids=class_ids,
                open_background=_has_open_background(dataset),
            )
            image = read_rgb(item.image_path, max_pixels=dataset.max_pixels)
            side = data.protect_size
            frame = frame_of(*label.shape, long_side=side)
            if data.protect_square and side is not None:
                frame = (side, side)
            _write_pair(folder, item.key, image, label, frame)
            progress.update()


def synthetic_samples(data: DataConfig, split: str) -> list[Sample]:
    """The scenes of a synthetic split, each under a name of its own."""
    from unseg.data.synthetic import Synthetic

    section = data.synthetic
    assert section is not None
    count = section.num_train if split == "train" else section.num_test
    scenes = Synthetic(count, image_size=section.image_size, seed=section.seed, split=split)
    return [scenes[i] for i in range(count)]


def _write_pair(
    folder: Path, key: str, image: np.ndarray, label: np.ndarray, frame: tuple[int, int] | None
) -> None:
    import cv2

    if image.shape[:2] != label.shape:
        raise UserError(f"{key}: label is {label.shape} (H, W) but the picture {image.shape[:2]}")
    height, width = frame or label.shape
    if (height, width) != label.shape:
        # Area averaging is what a careful trainer's reduction does; labels keep their values.
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    for part, pixels in (("images", np.ascontiguousarray(image[..., ::-1])), ("labels", label)):
        path = (folder / part / key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        is_encoded, data = cv2.imencode(".png", pixels)
        assert is_encoded
        atomic_write_bytes(path, data.tobytes())


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
    is_void = annotation.class_map == NO_CLASS
    if task == "semantic":
        label = contiguous_classes(annotation.class_map, class_ids)
        is_void |= label == NO_CLASS
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
        task: "foreground" or "semantic".
        protected_root: folder of the same pictures after protection, to be read instead.
        defence: written defence, applied at the pictures' own size.
        is_test: only those defences that act on test pictures.

    Raises:
        UserError: a picture or its label is missing, damaged or of another size.
    """
    source = build_source(dataset)
    class_ids = sorted(source.class_names)
    images, labels, extents, keys, native = [], [], [], [], []
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
        if is_test and recipe.score_at == "native":
            native.append(label)
    if not keys:
        raise UserError(f"{dataset.root}: no pictures; see `unseg data check`")
    return TensorSet(
        images=torch.stack(images),
        labels=torch.stack(labels),
        keys=tuple(keys),
        extents=torch.stack(extents),
        native_labels=tuple(native) if native else None,
    )


def num_classes(dataset: DatasetConfig, task: str) -> int:
    """Channels of a victim's logits."""
    if task == "foreground":
        return 2
    return len(build_source(dataset).class_names) + int(_has_open_background(dataset))


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
