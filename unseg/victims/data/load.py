"""From published pictures and labels on the disk to the tensors that a victim learns from."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import DENSE_TASKS, RecipeConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.base import Annotation, AnnotationSource, Item, contiguous_classes
from unseg.data.annotations.tree import Inside, twin_folder
from unseg.io.decode import read_rgb
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError
from unseg.victims.data.defences.base import Defend, PublishedPicture
from unseg.victims.data.segments import segments_of
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet, fit_frame


def training_label(
    annotation: Annotation, *, task: str, class_ids: Sequence[int], open_background: bool = False
) -> np.ndarray:
    """(H, W) uint8 classes that a victim learns, `IGNORED_LABEL` where a pixel does not count.

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
    label[is_void] = 0 if open_background else IGNORED_LABEL
    for segment in annotation.segments:
        if segment.is_crowd:
            label[segment.mask] = IGNORED_LABEL
    return label.astype(np.uint8)


class FramedPictures:
    """A split in the victim's frame; each picture is decoded and defended when it is asked for.

    Args:
        dataset: the clean pictures and the labels.
        recipe: gives the frame and where scores are taken.
        task: of the data section.
        protected_root: folder of the same pictures after protection, to be read instead.
        defend: what is done to each picture at its own size.
        is_test: whether scores may be taken at the pictures' own size.
        name: tells it from every other source of the process; None: one of its own.

    Raises:
        UserError: there are no pictures.
    """

    def __init__(
        self,
        dataset: DatasetConfig,
        *,
        recipe: RecipeConfig,
        task: str,
        protected_root: Path | None = None,
        defend: Defend | None = None,
        is_test: bool = False,
        name: Hashable = None,
    ) -> None:
        self.dataset, self.recipe, self.task = dataset, recipe, task
        self.defend, self.is_test = defend, is_test
        self._protected = None if protected_root is None else twin_folder(dataset, protected_root)
        self.name: Hashable = object() if name is None else name
        self._source = build_source(dataset)
        self._rank = object_ranks(dataset, task)
        self._items = self._source.items()
        self.keys = tuple(item.key for item in self._items)
        if not self.keys:
            raise UserError(f"{dataset.root}: no pictures; see `unseg data check`")

    def decode(self, row: int) -> TensorSet:
        """One picture with its label.

        Raises:
            UserError: the picture or its label is missing, damaged or of another size.
        """
        item, recipe = self._items[row], self.recipe
        annotation, picture = _read(self._source, item, self.dataset, self.task, self._protected)
        framed, classes, extent = fit_frame(
            picture.image if self.defend is None else self.defend(picture),
            picture.label,
            side=recipe.image_size,
            keep_ratio=recipe.keep_ratio,
            antialias=recipe.antialias,
        )
        is_native = self.is_test and recipe.score_at == "native"
        common = (framed[None], classes[None], (item.key,), torch.tensor([extent]))
        if self.task in DENSE_TASKS:
            native = (picture.label.numpy(),) if is_native else None
            return TensorSet(*common, native_labels=native)
        segments = segments_of(
            annotation, self._rank, open_background=has_open_background(self.dataset)
        )
        return TensorSet(
            *common,
            segments=(segments.resized(extent, side=recipe.image_size),),
            native_segments=(segments,) if is_native else None,
        )


def _read(
    source: AnnotationSource,
    item: Item,
    dataset: DatasetConfig,
    task: str,
    protected: Inside | None,
) -> tuple[Annotation, PublishedPicture]:
    """One picture with its label at its own size."""
    annotation = source.read(item)
    if not annotation.has_region:
        raise UserError(f"{item.key}: boxes and points are no labels to train a victim with")
    label = training_label(
        annotation,
        task=task,
        class_ids=sorted(source.class_names),
        open_background=has_open_background(dataset),
    )
    path = item.image_path if protected is None else protected_file(protected, item.key)
    pixels = read_rgb(path, max_pixels=dataset.max_pixels)
    if pixels.shape[:2] != label.shape:
        raise UserError(f"{path}: is {pixels.shape[:2]} (H, W) but its label is {label.shape}")
    return annotation, PublishedPicture(as_image(pixels), torch.from_numpy(label), item.key)


def as_image(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 as (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class PictureFiles:
    """The pictures of a split with their labels, read one at a time, again at each pass.

    Attributes:
        dataset: the clean pictures and the labels.
        task: of the data section.
        protected_root: folder of the same pictures after protection, to be read instead.
    """

    dataset: DatasetConfig
    task: str
    protected_root: Path | None = None

    def __len__(self) -> int:
        return len(build_source(self.dataset).items())

    def __iter__(self) -> Iterator[PublishedPicture]:
        source = build_source(self.dataset)
        root = self.protected_root
        protected = None if root is None else twin_folder(self.dataset, root)
        for item in source.items():
            yield _read(source, item, self.dataset, self.task, protected)[1]


def has_open_background(dataset: DatasetConfig) -> bool:
    """Whether pixels without an annotation are background rather than void."""
    return dataset.format == "coco"


def num_classes(dataset: DatasetConfig, task: str) -> int:
    """Classes of a victim."""
    if task == "foreground":
        return 2
    if task not in DENSE_TASKS:
        ranks = object_ranks(dataset, task)
        return 1 if ranks is None else len(ranks)
    return len(build_source(dataset).class_names) + int(has_open_background(dataset))


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


def protected_file(folder: Inside, key: str) -> Path:
    """The protected picture of a key; its suffix may differ, since lossless files may be PNG.

    Raises:
        UserError: there is none, or the name leads out of the folder.
    """
    names = (key, *(str(PurePosixPath(key).with_suffix(suffix)) for suffix in PICTURE_SUFFIXES))
    for path in map(folder.path, names):
        if path.is_file():
            return path
    raise UserError(
        f"{folder.root}: holds no protected picture of {key}; protect the whole set first"
    )


def picture_pairs(dataset: DatasetConfig, protected_root: Path) -> list[tuple[Path, Path]]:
    """(clean, protected) files of a split."""
    folder = twin_folder(dataset, protected_root)
    return [(i.image_path, protected_file(folder, i.key)) for i in build_source(dataset).items()]
