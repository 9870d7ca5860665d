"""Adapters: one per annotation format, chosen by `DatasetConfig.format`."""

from __future__ import annotations

from collections.abc import Callable

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import (
    Annotation,
    AnnotationSource,
    Item,
    Segment,
    contiguous_classes,
)
from unseg.data.annotations.beside import Beside
from unseg.data.annotations.binary_mask import BinaryMask
from unseg.data.annotations.cityscapes import Cityscapes
from unseg.data.annotations.class_png import ClassPng, ColourMap
from unseg.data.annotations.coco import CocoInstances
from unseg.data.annotations.folder import build_folder
from unseg.data.annotations.panoptic import Panoptic

SOURCES: dict[str, Callable[[DatasetConfig], AnnotationSource]] = {
    "class_png": ClassPng,
    "binary_mask": BinaryMask,
    "colour_map": ColourMap,
    "coco": CocoInstances,
    "panoptic": Panoptic,
    "cityscapes": Cityscapes,
    "folder": build_folder,
}
"""Adapters by the name of their format."""


def build_source(config: DatasetConfig) -> AnnotationSource:
    """The data set that a configuration describes.

    Raises:
        UserError: a folder, list or JSON file is missing or unreadable. Faults of single images
            are raised when they are read.
    """
    return SOURCES[config.format](config)


__all__ = [
    "SOURCES",
    "Annotation",
    "AnnotationSource",
    "Beside",
    "Item",
    "Segment",
    "build_source",
    "contiguous_classes",
]
