"""Cityscapes `*_gtFine_instanceIds.png`: 16-bit class ids, or 1000 * class id + instance."""

from __future__ import annotations

import numpy as np

from unseg.data.annotations.base import Annotation, Item, Segment
from unseg.data.annotations.label_pictures import map_ids, read_ids
from unseg.data.annotations.tree import TreeSource
from unseg.types import VOID_CLASS

CLASS_NAMES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train",
    32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""The 19 evaluated classes by their label id; the other ids up to 33 are void."""

FIRST_THING = 24
LAST_ID = 33
_GROUP_LIMIT = 1000


def _table() -> np.ndarray:
    """Class id of every stored value."""
    table = np.full(1000 * (LAST_ID + 1), VOID_CLASS - 1, np.int32)
    for label in range(LAST_ID + 1):
        category = label if label in CLASS_NAMES else VOID_CLASS
        table[label] = category
        if label >= FIRST_THING:
            table[1000 * label : 1000 * (label + 1)] = category
    return table


_TABLE = _table()


class Cityscapes(TreeSource):
    """Objects have an id of 1000 or more; a thing below it is a group, hence crowd."""

    def _read(self, item: Item) -> Annotation:
        values = read_ids(item.label, max_pixels=self.config.max_pixels)
        class_map = map_ids(values, _TABLE, item.label.path)
        class_map[np.isin(values, self.config.void)] = VOID_CLASS
        segments = []
        for value in np.flatnonzero(np.bincount(values.ravel())).tolist():
            category = int(_TABLE[value])
            if category == VOID_CLASS or value in self.config.void:
                continue
            is_thing = category >= FIRST_THING
            segments.append(
                Segment(
                    mask=values == value,
                    category=category,
                    is_crowd=is_thing and value < _GROUP_LIMIT,
                    is_thing=is_thing,
                    instance_id=value,
                )
            )
        height, width = class_map.shape
        return Annotation(height=height, width=width, class_map=class_map, segments=tuple(segments))

    @property
    def class_names(self) -> dict[int, str]:
        """The evaluated classes."""
        return dict(CLASS_NAMES)

    @property
    def thing_ids(self) -> frozenset[int]:
        """Ids from 24 on."""
        return frozenset(i for i in CLASS_NAMES if i >= FIRST_THING)
