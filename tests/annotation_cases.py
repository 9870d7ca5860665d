"""A tiny data set of each annotation format, and the contract that every adapter has to pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from unseg.config.dataset import DatasetConfig, PartConfig

HEIGHT, WIDTH = 12, 16


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def label(path: Path, values: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture = Image.fromarray(values, "P")
        picture.putpalette([(7 * i) % 256 for i in range(768)])  # a short one would lose bits
    picture.save(path)


def square(value: int = 1, dtype: type = np.uint8, background: int = 0) -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), background, dtype)
    values[2:6, 3:9] = value
    return values


def write_class_png(root: Path) -> DatasetConfig:
    for name in "ab":
        image(root / f"images/{name}.jpg")
        values = square(2)
        values[0] = 255
        label(root / f"labels/{name}.png", values, palette=True)
    return DatasetConfig(
        format="class_png", root=str(root), images="images", labels="labels",
        num_classes=3, void=(255,), background=(0,), things=(2,),
    )  # fmt: skip


def write_binary_mask(root: Path) -> DatasetConfig:
    for part in ("one", "two"):
        image(root / f"{part}/im/a.jpg")
        label(root / f"{part}/gt/a.png", square(255))
    return DatasetConfig(
        format="binary_mask",
        root=str(root),
        parts=tuple(PartConfig(images=f"{p}/im", labels=f"{p}/gt") for p in ("one", "two")),
    )


def write_colour_map(root: Path) -> DatasetConfig:
    for name in "ab":
        image(root / f"im/{name}.png")
        values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        values[3:6] = (250, 3, 0)
        label(root / f"gt/{name}.png", values)
    return DatasetConfig(
        format="colour_map", root=str(root), images="im", labels="gt",
        colours={"ground": (0, 0, 0), "roof": (255, 0, 0)}, background=(0,),
    )  # fmt: skip


def write_coco_instances(root: Path) -> DatasetConfig:
    names = ("a.jpg", "sub/b.jpg")
    for name in names:
        image(root / "im" / name)
    content = {
        "images": [
            {"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH}
            for i, n in enumerate(names)
        ],
        "annotations": [
            {"id": 7, "image_id": 0, "category_id": 4, "iscrowd": 0,
             "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]},
            {"id": 8, "image_id": 0, "category_id": 9, "iscrowd": 1,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 12, 80]}},
            {"id": 9, "image_id": 1, "category_id": 9, "iscrowd": 0,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 192]}},
        ],
        "categories": [{"id": 4, "name": "cat"}, {"id": 9, "name": "dög"}],
    }  # fmt: skip
    (root / "instances.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return DatasetConfig(format="coco", root=str(root), images="im", annotations="instances.json")


def write_panoptic(root: Path) -> DatasetConfig:
    for name in "ab":
        image(root / f"im/{name}.jpg")
        values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        values[2:5], values[6:8], values[9:] = (1, 1, 0), (0, 0, 2), (9, 0, 0)
        label(root / f"pan/{name}.png", values)
    segments = [
        {"id": 257, "category_id": 3, "iscrowd": 0},
        {"id": 131072, "category_id": 3, "iscrowd": 1},
        {"id": 9, "category_id": 5, "iscrowd": 0},
    ]
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "height": HEIGHT, "width": WIDTH} for n in "ab"
        ],
        "annotations": [
            {"image_id": n, "file_name": f"{n}.png", "segments_info": segments} for n in "ab"
        ],
        "categories": [
            {"id": 3, "name": "car", "isthing": 1},
            {"id": 5, "name": "sky", "isthing": 0},
        ],
    }
    (root / "panoptic.json").write_text(json.dumps(content))
    return DatasetConfig(
        format="panoptic", root=str(root), images="im", labels="pan",
        annotations="panoptic.json",
    )  # fmt: skip


def write_cityscapes(root: Path) -> DatasetConfig:
    for name in ("aachen/a", "bonn/b"):
        image(root / f"leftImg8bit/train/{name}_leftImg8bit.png")
        values = square(26001, np.uint16, background=7)
        values[8:10, :4], values[10, :] = 26, 3
        label(root / f"gtFine/train/{name}_gtFine_instanceIds.png", values)
    return DatasetConfig(
        format="cityscapes", root=str(root), images="leftImg8bit/train", labels="gtFine/train",
        image_ending="_leftImg8bit.png", label_ending="_gtFine_instanceIds.png",
    )  # fmt: skip


def write_folder_of_images(root: Path) -> DatasetConfig:
    image(root / "a.png")
    image(root / "sub/b.jpg")
    return DatasetConfig(format="folder", root=str(root))


def write_folder_with_masks(root: Path) -> DatasetConfig:
    for name in "ab":
        image(root / f"im/{name}.jpg")
        label(root / f"masks/{name}.png", square(1))
    return DatasetConfig(format="folder", root=str(root), images="im", labels="masks")


def write_folder_with_boxes(root: Path) -> DatasetConfig:
    entries = {}
    for name in "ab":
        image(root / f"im/{name}.jpg")
        entries[f"{name}.jpg"] = {"boxes": [[1, 2, 8, 9]]}
    (root / "boxes.json").write_text(json.dumps(entries))
    return DatasetConfig(format="folder", root=str(root), images="im", annotations="boxes.json")


def write_folder_with_points(root: Path) -> DatasetConfig:
    rows = ["image,x,y,label"]
    for name in "ab":
        image(root / f"im/{name}.jpg")
        rows += [f"{name}.jpg,3,4,1", f"{name}.jpg,9,9,0"]
    (root / "points.csv").write_text("\n".join(rows))
    return DatasetConfig(format="folder", root=str(root), images="im", annotations="points.csv")
