"""COCO instances JSON: polygons, both forms of RLE, crowds (COCO, NWPU VHR-10, WHU, SSDD)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Annotation, ClassIdError, Item, Segment
from unseg.data.annotations.json_index import JsonIndex, faults_of
from unseg.data.annotations.raster import decode_segmentation
from unseg.data.annotations.tree import Inside, existing_folder, trusted_folders
from unseg.io.files import path_below
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


class JsonSource:
    """Common part of the adapters whose list of images is a COCO-style JSON file."""

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.root = existing_folder(config.root)
        self.images = existing_folder(path_below(self.root, config.images))
        self.index = JsonIndex(path_below(self.root, config.annotations or ""))
        with faults_of(f"{self.index.path}: categories"):
            self.categories = {int(c["id"]): c for c in self.index.categories}
        self._inside = Inside(self.images, trusted_folders(config))
        self._items = self._find_items()

    def _find_items(self) -> tuple[Item, ...]:
        found: dict[str, Item] = {}
        for position, (image_id, name, _, _) in enumerate(self.index.images):
            item = self._find_item(position, image_id, name)
            found.setdefault(item.key, item)
        return tuple(found.values())

    def _find_item(self, position: int, image_id: Any, name: Any) -> Item:
        if not isinstance(name, str) or not name:
            fault = f"{self.index.path}: image {image_id} has no file_name"
            return Item(key=f"image-{position}", image_path=self.images, fault=fault)
        try:
            image_path = self._inside.path(name)
        except UserError as error:
            fault = f"{self.index.path}: {error}"
            return Item(key=name, image_path=self.images, fault=fault)
        return Item(key=PurePosixPath(name).as_posix(), image_path=image_path, label=position)

    def items(self) -> Sequence[Item]:
        """All images of the JSON file, in its order."""
        return self._items

    def read(self, item: Item) -> Annotation:
        """The label of one image; raises UserError naming file and fault."""
        if item.fault is not None:
            raise UserError(item.fault)
        return self._read(item)

    def _read(self, item: Item) -> Annotation:
        raise NotImplementedError

    def _size(self, item: Item) -> tuple[int, int]:
        """(height, width) that the JSON file gives an image."""
        _, _, height, width = self.index.images[item.label]
        place = f"{self.index.path}: image {item.key}"
        if type(height) is not int or type(width) is not int or min(height, width) < 1:
            raise UserError(f"{place}: height {height} and width {width} are not a size")
        if height * width > self.config.max_pixels:
            raise UserError(f"{place}: {height} x {width} exceeds {self.config.max_pixels} pixels")
        return height, width

    def _category(self, annotation: dict[str, Any]) -> int:
        category = annotation["category_id"]
        if category not in self.categories:
            raise ClassIdError(f"class id {category} is not among the file's categories")
        return int(category)

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the file's categories by id."""
        return {i: str(self.categories[i].get("name", i)) for i in sorted(self.categories)}

    @property
    def num_classes(self) -> int:
        """Number of categories."""
        return len(self.categories)

    @property
    def thing_ids(self) -> frozenset[int]:
        """Categories that the file does not call stuff."""
        return frozenset(i for i, c in self.categories.items() if c.get("isthing", 1))


class CocoInstances(JsonSource):
    """One mask an object; overlapping ones are kept apart in `segments`."""

    def _read(self, item: Item) -> Annotation:
        height, width = self._size(item)
        segments = []
        for i, annotation in enumerate(self.index.annotations(item.label)):
            place = f"{self.index.path}: annotation {annotation.get('id', i)} of {item.key}"
            with faults_of(place):
                segments.append(self._segment(annotation, i, height, width))
        class_map = np.full((height, width), VOID_CLASS, np.int32)
        for segment in sorted(segments, key=lambda s: -int(s.mask.sum())):
            class_map[segment.mask] = VOID_CLASS if segment.is_crowd else segment.category
        return Annotation(height=height, width=width, class_map=class_map, segments=tuple(segments))

    def _segment(self, annotation: dict[str, Any], i: int, height: int, width: int) -> Segment:
        category = self._category(annotation)
        return Segment(
            mask=decode_segmentation(annotation["segmentation"], height, width),
            category=category,
            is_crowd=bool(annotation.get("iscrowd", 0)),
            is_thing=category in self.thing_ids,
            instance_id=int(annotation.get("id", i)),
        )
