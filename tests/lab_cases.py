"""A tiny folder with the layout that `scripts/reproduce_lab.sh` reads, made of embedded scenes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from unseg.data import Synthetic

COUNT = 6


def write_lab(root: Path) -> None:
    """Pairs in lists (CCP, DAVIS), COCO instances, and Kvasir-SEG with its two lists."""
    scenes = Synthetic(4 * COUNT, image_size=64, seed=3)

    def pair(index: int, image: str, mask: str) -> str:
        for name in (image, mask):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        sample = scenes[index]
        cv2.imwrite(str(root / image), sample.image[..., ::-1])
        cv2.imwrite(str(root / mask), sample.mask.astype(np.uint8) * 255)
        return f"{image}\t{mask}\n"

    for offset, split in enumerate(("train", "test")):
        lines = [
            pair(offset * COUNT + i, f"{name}/im/{split}{i}.jpg", f"{name}/gt/{split}{i}.png")
            for i in range(COUNT)
            for name in ("CCP", "DAVIS")
        ]
        (root / f"class_agnostic_{split}.txt").write_text("".join(lines))
        for i in range(COUNT):
            name = f"{split}{i}.jpg"
            index = (2 + offset) * COUNT + i
            pair(index, f"Kvasir-SEG/images/{name}", f"Kvasir-SEG/masks/{name}")
        names = [f"{split}{i}\n" for i in range(COUNT)]
        (root / f"Kvasir-SEG/{split}.txt").write_text("".join(names))
    _write_coco(root / "coco")


def _write_coco(root: Path) -> None:
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    cv2.imwrite(str(root / "train2017/a.jpg"), Synthetic(1, image_size=64)[0].image)
    outline = [[10, 10, 50, 10, 50, 50, 10, 50]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 64, "width": 64}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": outline}
        ],
    }
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
