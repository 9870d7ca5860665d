"""Panoptic PNG + JSON, as published for COCO, ADE20K and Cityscapes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Annotation, ClassIdError, Item, Segment
from unseg.data.annotations.coco import JsonSource
from unseg.data.annotations.json_index import faults_of
from unseg.data.annotations.label_pictures import read_colours
from unseg.data.annotations.tree import Inside, existing_folder, scan_images, trusted_folders
from unseg.io.files import path_below
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


class Panoptic(JsonSource):
    """Every pixel belongs to one segment, coded as R + 256 G + 65536 B, or to none (0)."""

    def __init__(self, config: DatasetConfig) -> None:
        self._by_stem: dict[str, str] = {}
        super().__init__(config)
        self.labels = existing_folder(path_below(self.root, config.labels or "."))
        self._in_labels = Inside(self.labels, trusted_folders(config))

    def _find_items(self) -> tuple[Any, ...]:
        ending = self.config.image_ending
        if ending:  # Cityscapes: the JSON's file names are not those of the nested image files
            self._by_stem = {
                PurePosixPath(path).name.removesuffix(ending): path
                for path in scan_images(self.images, ending)
            }
        return super()._find_items()

    def _find_item(self, position: int, image_id: Any, name: Any) -> Item:
        if self.config.image_ending:
            found = self._by_stem.get(str(image_id))
            if found is not None:
                return Item(key=found, image_path=self.images / found, label=position)
            name = str(image_id) + self.config.image_ending
        return super()._find_item(position, image_id, name)

    def _read(self, item: Item) -> Annotation:
        size = self._size(item)
        records = self.index.annotations(item.label)
        place = f"{self.index.path}: {item.key}"
        if len(records) != 1:
            raise UserError(f"{place}: has {len(records)} panoptic annotations instead of one")
        with faults_of(place):
            png = self._in_labels.path(str(records[0]["file_name"]))
            infos = sorted(self._info(s) for s in records[0]["segments_info"])
        ids = read_colours(png, max_pixels=self.config.max_pixels)
        if ids.shape != size:
            raise UserError(f"{png}: is {ids.shape} (H, W), the JSON file says {size}")
        known = np.array([0] + [i[0] for i in infos], np.int64)
        if len(np.unique(known)) != len(known):
            raise UserError(f"{place}: two segments have the same id")
        rows = _rows_of(ids, known, str(png))
        categories = np.array(
            [VOID_CLASS] + [VOID_CLASS if i[2] else i[1] for i in infos], np.int32
        )
        counts = np.bincount(rows.ravel(), minlength=len(known))
        segments = tuple(
            Segment(
                mask=rows == row,
                category=category,
                is_crowd=is_crowd,
                is_thing=category in self.thing_ids,
                instance_id=segment_id,
            )
            for row, (segment_id, category, is_crowd) in enumerate(infos, start=1)
            if counts[row]
        )
        return Annotation(
            height=size[0], width=size[1], class_map=categories[rows], segments=segments
        )

    def _info(self, info: dict[str, Any]) -> tuple[int, int, bool]:
        """(id, category, is_crowd) of one entry of `segments_info`."""
        segment_id = int(info["id"])
        if not 0 < segment_id < 1 << 24:
            raise ValueError(f"segment id {segment_id} cannot be a colour")
        return segment_id, self._category(info), bool(info.get("iscrowd", 0))


def _rows_of(ids: np.ndarray, known: np.ndarray, place: str) -> np.ndarray:
    """Row of each pixel's id in the sorted `known` ones, looked up once for each run of pixels."""
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values = flat[starts]
    rows = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wrong = np.unique(values[known[rows] != values])
    if len(wrong):
        shown = ", ".join(map(str, wrong[:5]))
        raise ClassIdError(f"{place}: holds segment ids that its JSON file lacks: {shown}")
    lengths = np.diff(np.append(starts, flat.size))
    return np.repeat(rows, lengths).reshape(ids.shape)
