"""Labels that are one picture of class ids or class colours (VOC, ADE20K, CamVid, aerial tiles)."""

from __future__ import annotations

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.label_pictures import (
    map_ids,
    read_colours,
    read_ids,
    semantic_annotation,
)
from unseg.data.annotations.tree import TreeSource
from unseg.types import VOID_CLASS

_NO_CLASS = VOID_CLASS - 1
_TABLE_SIZE = 1 << 16


class ClassPng(TreeSource):
    """Palette or grey pictures whose stored values are class ids."""

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        self._table = id_table(config, self.num_classes)

    def _read(self, item: Item) -> Annotation:
        values = read_ids(item.label, max_pixels=self.config.max_pixels)
        return semantic_annotation(
            map_ids(values, self._table, item.label.path),
            background=self.config.background,
            things=self.config.things,
        )


class ColourMap(TreeSource):
    """Colour pictures; a blended border colour counts as the nearest class colour."""

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config)
        self._colours = np.array(list((config.colours or {}).values()), np.int64)

    def _read(self, item: Item) -> Annotation:
        packed = read_colours(item.label, max_pixels=self.config.max_pixels)
        colours, inverse = np.unique(packed, return_inverse=True)
        rgb = np.stack([colours & 255, (colours >> 8) & 255, colours >> 16], axis=1)
        distance = ((rgb[:, None, :].astype(np.int64) - self._colours) ** 2).sum(axis=2)
        nearest = distance.argmin(axis=1).astype(np.int32)
        nearest[np.isin(nearest, self.config.void)] = VOID_CLASS
        return semantic_annotation(
            nearest[inverse].reshape(packed.shape),
            background=self.config.background,
            things=self.config.things,
        )


def id_table(config: DatasetConfig, num_classes: int) -> np.ndarray:
    """(65536,) int32 class id of every stored value; void, or below it where there is no class."""
    stored = np.arange(_TABLE_SIZE, dtype=np.int32)
    ids = stored + config.class_offset
    if config.reduce_zero_label:
        ids = ids - 1
    table = np.where((ids >= 0) & (ids < num_classes), ids, _NO_CLASS)
    if config.reduce_zero_label:
        table[0] = VOID_CLASS
    table[[v for v in config.void if 0 <= v < _TABLE_SIZE]] = VOID_CLASS
    return table.astype(np.int32)
