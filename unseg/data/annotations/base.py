"""What every annotation format is turned into, and the interface of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unseg.io.files import FileContent
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


class ClassIdError(UserError):
    """A label holds an id that is not a class or segment of its data set."""


@dataclass(frozen=True)
class Item:
    """One image of a data set.

    Attributes:
        key: POSIX path relative to the images' folder: the manifest's id, and the output's path.
        image_path: the file; it need not exist.
        label: the adapter's own reference to the annotation.
        fault: why this entry of a list or JSON file must not be opened (a path out of the root);
            `image_path` is then the images' folder, and `read` raises the fault.
    """

    key: str
    image_path: Path
    label: Any = None
    fault: str | None = None


@dataclass(frozen=True)
class Segment:
    """One object, or all pixels of a class where the format knows no objects.

    Attributes:
        mask: (H, W) bool.
        category: class id, as in `Annotation.class_map`.
        is_crowd: a group that is not annotated object by object: neither protected nor scored.
        is_thing: countable.
        instance_id: unique within the image.
    """

    mask: np.ndarray
    category: int
    is_crowd: bool
    is_thing: bool
    instance_id: int


@dataclass(frozen=True)
class Annotation:
    """The label of one image, in the frame of the label's own file.

    Attributes:
        height: rows.
        width: columns.
        class_map: (H, W) int32 class ids, the data set's own after `class_offset`; VOID_CLASS = -1.
            Overlapping objects: the smaller lies on top.
        segments: objects to protect and crowds; background classes are in `class_map` alone.
        soft_mask: (H, W) uint8 where the label is a soft binary mask; the official region map
            averages it (docs/METHOD.md, "5. Generation").
        boxes: (N, 4) float XYXY inclusive pixel indices, image frame, where the label is boxes.
        point_coords: (N, 2) float (X, Y), image frame, where the label is points.
        point_labels: (N,) int, 1 foreground, 0 background.
        is_whole: there is no label: the whole image is the region.
        label_file: the label's own file as it was read, None where it has none; for its checksum.
    """

    height: int
    width: int
    class_map: np.ndarray
    segments: tuple[Segment, ...] = ()
    soft_mask: np.ndarray | None = None
    boxes: np.ndarray | None = None
    point_coords: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    is_whole: bool = False
    label_file: FileContent | None = None

    @property
    def has_region(self) -> bool:
        """Whether pixels are labelled; boxes and points need `region_from_prompt` instead."""
        return self.boxes is None and self.point_coords is None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def turned(self, turn: Any) -> Annotation:
        """The label after `turn`, a function of (H, W) arrays (the EXIF turn of its image)."""
        class_map = np.ascontiguousarray(turn(self.class_map))
        return replace(
            self,
            height=class_map.shape[0],
            width=class_map.shape[1],
            class_map=class_map,
            segments=tuple(
                replace(s, mask=np.ascontiguousarray(turn(s.mask))) for s in self.segments
            ),
            soft_mask=(
                None if self.soft_mask is None else np.ascontiguousarray(turn(self.soft_mask))
            ),
        )


class AnnotationSource(Protocol):
    """A data set with labels. Adapters keep only small references; `read` opens the files.

    One that looks for images in folders also has `beside()`, what else lies there (`Beside`).
    """

    def items(self) -> Sequence[Item]:
        """All images in a fixed order, the same on every rank; missing files are listed too."""
        ...

    def read(self, item: Item) -> Annotation:
        """The label of one image.

        Raises:
            UserError: naming file and fault.
        """
        ...

    @property
    def class_names(self) -> dict[int, str]:
        """Name of every class id that `class_map` may hold, in rising order."""
        ...

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def thing_ids(self) -> frozenset[int]:
        """Class ids of countable objects."""
        ...


def contiguous_classes(class_map: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """The class map with ids 0 to C - 1 in the order of `class_ids`, for training.

    Args:
        class_map: (H, W) int, VOID_CLASS = -1.
        class_ids: the ids that count; all others become VOID_CLASS.

    Returns:
        (H, W) int32.
    """
    top = max(int(class_map.max(initial=0)), *class_ids, 0)
    table = np.full(top + 2, VOID_CLASS, np.int32)  # the last row is read by VOID_CLASS = -1
    table[np.asarray(class_ids, np.int64)] = np.arange(len(class_ids), dtype=np.int32)
    return table[class_map]
