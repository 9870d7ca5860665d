"""Any tree of images: with a tree of masks, with a file of boxes or points, or with nothing."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Annotation, Item, Segment
from unseg.data.annotations.binary_mask import BinaryMask
from unseg.data.annotations.tree import Inside, TreeSource, find_items, trusted_folders
from unseg.data.prompt_checks import checked_boxes, checked_points
from unseg.io.decode import image_size
from unseg.io.files import path_below
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


class WholeImages(TreeSource):
    """No labels: the whole of each image is protected."""

    has_labels = False

    def _find_items(self) -> tuple[Item, ...]:
        return find_items(self.config, with_labels=self.has_labels)

    def _read(self, item: Item) -> Annotation:
        height, width = image_size(item.image_path, max_pixels=self.config.max_pixels)
        mask = np.ones((height, width), bool)
        segment = Segment(mask=mask, category=1, is_crowd=False, is_thing=True, instance_id=1)
        class_map = np.ones((height, width), np.int32)
        return Annotation(
            height=height, width=width, class_map=class_map, segments=(segment,), is_whole=True
        )

    @property
    def class_names(self) -> dict[int, str]:
        """Background and object, as for masks."""
        return {0: "background", 1: "object"}

    @property
    def thing_ids(self) -> frozenset[int]:
        """The object."""
        return frozenset({1})


class BoxesAndPoints(WholeImages):
    """A JSON or CSV file with boxes and points of each image, in pixels of the upright image.

    JSON: `{"a/b.jpg": {"boxes": [[x0, y0, x1, y1]], "points": [[x, y]], "labels": [1]}}`.
    CSV: columns `image,x0,y0,x1,y1` for boxes or `image,x,y,label` for points, a row for each.
    """

    def _find_items(self) -> tuple[Item, ...]:
        path = path_below(self.root, self.config.annotations or "")
        self.prompts_path = path
        self._prompts = _read_csv(path) if path.suffix.lower() == ".csv" else _read_json(path)
        found = {item.key: item for item in super()._find_items()}
        images = path_below(self.root, self.config.images)
        inside = Inside(images, trusted_folders(self.config))
        for key in self._prompts:
            if key in found:
                continue
            try:
                found[key] = Item(key=key, image_path=inside.path(key))
            except UserError as error:
                found[key] = Item(key=key, image_path=images, fault=f"{path}: {error}")
        return tuple(found.values())

    def _read(self, item: Item) -> Annotation:
        place = f"{self.prompts_path}: {item.key}"
        if item.key not in self._prompts:
            raise UserError(f"{place}: has neither boxes nor points")
        height, width = image_size(item.image_path, max_pixels=self.config.max_pixels)
        entry = self._prompts[item.key]
        try:
            boxes, points, labels = _prompt_arrays(entry, height, width)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{place}: {error}") from None
        return Annotation(
            height=height,
            width=width,
            class_map=np.full((height, width), VOID_CLASS, np.int32),
            boxes=boxes,
            point_coords=points,
            point_labels=labels,
        )


def build_folder(config: DatasetConfig) -> TreeSource:
    """The source of format `folder`, by what the configuration names."""
    if config.annotations is not None:
        return BoxesAndPoints(config)
    if config.labels is not None or config.label_ending is not None or config.parts:
        return BinaryMask(config)
    return WholeImages(config)


def _prompt_arrays(entry: Any, height: int, width: int) -> tuple[np.ndarray | None, ...]:
    """Boxes (N, 4), points (N, 2) and their labels (N,), each None where absent; checked."""
    if not isinstance(entry, dict):
        raise ValueError("must hold `boxes` and/or `points`")
    boxes = points = labels = None
    if len(entry.get("boxes") or ()):
        boxes = checked_boxes(entry["boxes"], height, width)
    if len(entry.get("points") or ()):
        points, labels = checked_points(entry["points"], entry.get("labels"), height, width)
    if boxes is None and points is None:
        raise ValueError("has neither boxes nor points")
    return boxes, points, labels


def _read_json(path: Path) -> dict[str, Any]:
    values = _parsed(path, json.loads)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold one object with an entry for each image")
    return values


def _read_csv(path: Path) -> dict[str, Any]:
    rows = _parsed(path, lambda text: list(csv.DictReader(text.splitlines())))
    columns = set(rows[0]) if rows else set()
    prompts: dict[str, Any] = {}
    if {"image", "x0", "y0", "x1", "y1"} <= columns:
        for row in rows:
            box = [_number(row[c], path) for c in ("x0", "y0", "x1", "y1")]
            prompts.setdefault(row["image"], {"boxes": []})["boxes"].append(box)
    elif {"image", "x", "y"} <= columns:
        for row in rows:
            entry = prompts.setdefault(row["image"], {"points": [], "labels": []})
            entry["points"].append([_number(row[c], path) for c in ("x", "y")])
            entry["labels"].append(_number(row.get("label") or "1", path))
    else:
        raise UserError(f"{path}: needs the columns image,x0,y0,x1,y1 or image,x,y,label")
    return prompts


def _number(text: str | Sequence[str] | None, path: Path) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise UserError(f"{path}: {text!r} is not a number") from None


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"{path}: not readable: {error}") from None
