"""Single pictures and folders with prompts from the command line, as a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.beside import Beside, look_beside
from unseg.data.annotations.label_pictures import mask_annotation, read_brightness
from unseg.data.annotations.tree import scan_images
from unseg.data.mask_values import holds_ones
from unseg.io.decode import MAX_PIXELS, image_size
from unseg.io.files import read_file
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


@dataclass(frozen=True)
class GivenPrompts:
    """The same prompts for every picture: a mask file or folder, boxes, or points.

    Attributes:
        mask: a mask file, or a folder with a mask of the same tree and stem for each picture.
        boxes: (N, 4) XYXY inclusive.
        points: (N, 2) X, Y.
        labels: (N,) 1 object, 0 background; None: all object.
    """

    mask: Path | None = None
    boxes: np.ndarray | None = None
    points: np.ndarray | None = None
    labels: np.ndarray | None = None


class GivenPictures:
    """Pictures named one by one or by their folder; an `AnnotationSource`.

    Args:
        paths: files and folders; a folder's pictures keep their tree below it.
        prompts: for all of them.

    Raises:
        UserError: a path or a mask is missing.
    """

    class_names = {0: "background", 1: "object"}
    num_classes = 2
    thing_ids = frozenset({1})

    def __init__(self, paths: Sequence[Path], prompts: GivenPrompts) -> None:
        self.prompts = prompts
        self.folders = [path for path in paths if path.is_dir()]
        self._beside = Beside()
        found: list[Item] = []
        for path in paths:
            if path.is_dir():
                keys = list(scan_images(path))
                beside = look_beside(path, label_of=self._mask)
                if not keys and not beside.items:
                    raise UserError(f"{path}: holds no picture")
                found += [Item(key=k, image_path=path / k, label=self._mask(k)) for k in keys]
                self._beside.items.extend(beside.items)
                self._beside.others.extend(beside.others)
            elif path.is_file():
                found.append(Item(key=path.name, image_path=path, label=self._mask(path.name)))
            else:
                raise UserError(f"{path}: no such file or folder")
        counts = Counter(item.key for item in (*found, *self._beside.items) if not item.fault)
        twice = next((key for key, count in counts.items() if count > 1), None)
        if twice is not None:
            raise UserError(f"{twice}: given twice; protect them into different folders")
        self._items = found

    def items(self) -> Sequence[Item]:
        """The pictures in the order of the call, folders sorted."""
        return self._items

    def beside(self) -> Beside:
        """What lies in the folders beside the pictures."""
        return self._beside

    def read(self, item: Item) -> Annotation:
        """The prompts as a label.

        Raises:
            UserError: naming the mask and its fault.
        """
        if isinstance(item.label, Path):
            return _mask_annotation(item.label)
        height, width = image_size(item.image_path)
        has_prompts = self.prompts.boxes is not None or self.prompts.points is not None
        return Annotation(
            height=height,
            width=width,
            class_map=np.full((height, width), VOID_CLASS, np.int32),
            boxes=self.prompts.boxes,
            point_coords=self.prompts.points,
            point_labels=self.prompts.labels,
            is_whole=not has_prompts,
        )

    def _mask(self, key: str) -> Path | None:
        mask = self.prompts.mask
        if mask is None or not mask.is_dir():
            if mask is not None and not mask.is_file():
                raise UserError(f"{mask}: no such mask file or folder")
            return mask
        stem = mask / key
        for suffix in PICTURE_SUFFIXES:
            if stem.with_suffix(suffix).is_file():
                return stem.with_suffix(suffix)
        return stem.with_suffix(".png")  # reading it says that it is missing


def _mask_annotation(path: Path) -> Annotation:
    """A mask file; {0, 1} and {0, 255} are both understood, by looking."""
    file = read_file(path)
    values, is_scaled = read_brightness(file, max_pixels=MAX_PIXELS)
    if not is_scaled and holds_ones(values):
        values = values * np.uint8(255)
    return replace(mask_annotation(values), label_file=file)
