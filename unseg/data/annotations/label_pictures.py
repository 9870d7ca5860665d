"""Label pictures as the numbers they store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from unseg.data.annotations.base import Annotation, ClassIdError, Segment
from unseg.data.mask_values import THRESHOLD
from unseg.io.decode import read_labels
from unseg.io.files import FileContent, read_file
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


def read_ids(path: Path | FileContent, *, max_pixels: int) -> np.ndarray:
    """Stored values of a one-channel label picture: (H, W) integers, palette indices included."""
    file = read_file(path)
    values = read_labels(file, max_pixels=max_pixels)
    if values.ndim == 3:
        if values.shape[2] != 3 or (values != values[:, :, :1]).any():
            raise UserError(
                f"{file.path}: is a colour picture, class ids need one channel; "
                "use format colour_map or panoptic"
            )
        values = np.ascontiguousarray(values[:, :, 0])
    return _undo_grey_expansion(file, values)


def read_brightness(path: Path | FileContent, *, max_pixels: int) -> tuple[np.ndarray, bool]:
    """A mask picture as (H, W) uint8, and whether its type alone makes it 0 to 255 (JPEG, 1 bit).

    Palette pictures give their indices, 16-bit ones their high byte, colours their luma.
    """
    file = read_file(path)
    values, header = read_labels(file, max_pixels=max_pixels), file.data[:26]
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    if values.dtype != np.uint8:
        values = (values >> 8).astype(np.uint8) if values.max(initial=0) > 255 else values
        values = values.astype(np.uint8)
    is_one_bit = header[12:16] == b"IHDR" and header[24] == 1 and header[25] == 0
    if is_one_bit:
        values = values * np.uint8(255)
    return values, is_one_bit or header.startswith(b"\xff\xd8")


def read_colours(path: Path | FileContent, *, max_pixels: int) -> np.ndarray:
    """A colour label picture as (H, W) int32 of R + 256 G + 65536 B."""
    file = read_file(path)
    values = read_labels(file, max_pixels=max_pixels)
    if values.ndim != 3 or values.shape[2] != 3:
        raise UserError(f"{file.path}: has one channel; colour labels need red, green and blue")
    channels = values.astype(np.int32)
    return channels[:, :, 0] + (channels[:, :, 1] << 8) + (channels[:, :, 2] << 16)


def map_ids(values: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Class ids of stored values.

    Args:
        values: (H, W) non-negative integers.
        table: (n,) int32 class id of each stored value, below VOID_CLASS where there is none.
        path: named in errors.

    Raises:
        UserError: the picture holds values without a class id.
    """
    if values.max(initial=0) >= len(table):
        wrong = np.unique(values[values >= len(table)])
    else:
        class_map = table[values]
        if class_map.min(initial=0) >= VOID_CLASS:
            return class_map
        wrong = np.unique(values[class_map < VOID_CLASS])
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    valid = np.flatnonzero(table >= VOID_CLASS)
    raise ClassIdError(
        f"{path}: class id {shown} out of range; accepted are {_ranges(valid)} "
        "(data.num_classes, data.void, data.class_offset)"
    )


def semantic_annotation(
    class_map: np.ndarray, *, background: Collection[int], things: Collection[int]
) -> Annotation:
    """An annotation with one segment for each class present but background."""
    counts = np.bincount(class_map.ravel() + 1)
    segments: Sequence[Segment] = [
        Segment(
            mask=class_map == category,
            category=category,
            is_crowd=False,
            is_thing=category in things,
            instance_id=category,
        )
        for category in (np.flatnonzero(counts[1:])).tolist()
        if category not in background
    ]
    height, width = class_map.shape
    return Annotation(height=height, width=width, class_map=class_map, segments=tuple(segments))


def mask_annotation(soft_mask: np.ndarray) -> Annotation:
    """An annotation of one object from its (H, W) uint8 mask of {0, 255}, which may be soft."""
    mask = soft_mask > THRESHOLD
    segment = Segment(mask=mask, category=1, is_crowd=False, is_thing=True, instance_id=1)
    return Annotation(
        height=mask.shape[0],
        width=mask.shape[1],
        class_map=mask.astype(np.int32),
        segments=(segment,) if mask.any() else (),
        soft_mask=soft_mask,
    )


def _ranges(values: np.ndarray) -> str:
    """`0-20, 255` from sorted numbers."""
    if not len(values):
        return "none"
    cuts = np.flatnonzero(np.diff(values) > 1) + 1
    runs = np.split(values, cuts)
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)


def _undo_grey_expansion(file: FileContent, values: np.ndarray) -> np.ndarray:
    """Pillow stretches grey PNGs of 2 and 4 bits to 0-255; class ids are the stored numbers."""
    header = file.data[:26]
    if header[12:16] == b"IHDR" and header[25] == 0 and header[24] in (2, 4):
        return values // (255 // ((1 << header[24]) - 1))
    return values
