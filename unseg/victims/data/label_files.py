"""Segments of reduced or synthetic pictures as files that the readers of data sets understand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Annotation, AnnotationSource, Segment
from unseg.io.files import atomic_write, atomic_write_bytes

LABELS = "labels"
JSON = "annotations.json"
OBJECT_FORMATS = ("coco", "panoptic", "cityscapes")
"""Formats whose labels know objects; what is reduced from them must still know them."""


def label_config(folder: Path, format_: str) -> DatasetConfig:
    """The data set that a `LabelWriter` makes of one of another (or of no) format."""
    is_open = format_ not in ("panoptic", "cityscapes")
    return DatasetConfig(
        format="coco" if is_open else "panoptic",
        root=str(folder),
        images="images",
        annotations=JSON,
        labels=None if is_open else LABELS,
    )


class LabelWriter:
    """Collects the segments of pictures; `close` writes the JSON file.

    Instances that may overlap become COCO's run lengths, on a background that counts; panoptic
    segments become one picture of ids, in which 0 does not count.

    Args:
        config: from `label_config`.
        names: of the classes, by id.
        things: class ids of countable objects.
    """

    def __init__(
        self, config: DatasetConfig, names: dict[int, str], things: frozenset[int]
    ) -> None:
        self.config, self.folder = config, Path(config.root)
        self._categories = [
            {"id": i, "name": name, "isthing": int(i in things)} for i, name in names.items()
        ]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    @staticmethod
    def like(config: DatasetConfig, source: AnnotationSource) -> LabelWriter:
        """A writer with the classes of another data set."""
        return LabelWriter(config, dict(source.class_names), source.thing_ids)

    def add(self, key: str, annotation: Annotation, size: tuple[int, int]) -> None:
        """The segments of one picture, brought to `size`; `key` is the picture's file name."""
        height, width = size
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": key, "height": height, "width": width})
        kept = []
        for segment in annotation.segments:
            mask = segment.mask
            if annotation.size != size:
                mask = cv2.resize(
                    mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
                ).astype(bool)
            if mask.any():
                kept.append((segment, mask))
        if self.config.format == "coco":
            self._add_instances(number, kept)
        else:
            self._add_panoptic(number, key, kept, size)

    def _add_instances(self, number: int, kept: Sequence[tuple[Segment, np.ndarray]]) -> None:
        for segment, mask in kept:
            flat = mask.T.ravel()  # COCO counts down the columns, background first
            edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [flat[-1]]])))
            runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": segment.category,
                    "iscrowd": int(segment.is_crowd),
                    "segmentation": {"size": list(mask.shape), "counts": runs},
                }
            )

    def _add_panoptic(
        self,
        number: int,
        key: str,
        kept: Sequence[tuple[Segment, np.ndarray]],
        size: tuple[int, int],
    ) -> None:
        ids, infos = np.zeros(size, np.int64), []
        for row, (segment, mask) in enumerate(kept, start=1):
            ids[mask] = row
            infos.append(
                {"id": row, "category_id": segment.category, "iscrowd": int(segment.is_crowd)}
            )
        present = set(np.unique(ids).tolist())
        colours = np.stack([ids >> 16, (ids >> 8) & 255, ids & 255], axis=2)  # OpenCV's order
        is_encoded, data = cv2.imencode(".png", colours.astype(np.uint8))
        assert is_encoded
        path = self.folder / LABELS / key
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, data.tobytes())
        self._annotations.append(
            {
                "image_id": number,
                "file_name": key,
                "segments_info": [info for info in infos if info["id"] in present],
            }
        )

    def close(self) -> None:
        """Write the JSON file."""
        with atomic_write(self.folder / JSON, "w") as file:
            json.dump(
                {
                    "images": self._images,
                    "annotations": self._annotations,
                    "categories": self._categories,
                },
                file,
            )


def components(mask: np.ndarray) -> Annotation:
    """Each connected part of a mask (H, W) as an object of class 1, on a background that counts."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    objects = tuple(
        Segment(parts == i, category=1, is_crowd=False, is_thing=True, instance_id=i)
        for i in range(1, count)
    )
    height, width = mask.shape
    return Annotation(height, width, mask.astype(np.int32), objects)
