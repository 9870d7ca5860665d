"""COCO instances as training pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from unseg.data.coco_instances import open_coco_instances
from unseg.data.header_check import check_dataset
from unseg.data.pairs import DataError
from unseg.utils.errors import UserError


def box(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def write_coco(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((40, 50, 3), np.uint8))
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 50}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 1, "iscrowd": 0, **annotation}
            for i, annotation in enumerate(annotations)
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_each_larger_instance_is_a_sample_and_crowds_are_none(tmp_path: Path) -> None:
    path = write_coco(
        tmp_path,
        [
            {"segmentation": box(10, 5, 20, 10), "area": 200},
            {"segmentation": box(0, 0, 4, 4), "area": 16},
            {"segmentation": box(0, 0, 40, 30), "area": 1200, "iscrowd": 1},
            {"segmentation": {"size": [40, 50], "counts": [0, 400, 1600]}},
        ],
    )
    dataset = check_dataset(open_coco_instances(path, tmp_path / "images", min_share=0.01))
    assert [dataset[i].name for i in range(len(dataset))] == ["a.png#0", "a.png#3"]
    assert dataset[0].mask.sum() == 200
    assert dataset[0].mask[5:15, 10:30].all()
    assert dataset[1].mask[:, :10].all()
    assert dataset[1].mask.sum() == 400


def test_a_malformed_instance_is_named_when_it_is_read(tmp_path: Path) -> None:
    rle = {"size": [40, 50], "counts": [0, 400]}
    path = write_coco(tmp_path, [{"segmentation": rle, "area": 400}])
    with pytest.raises(UserError, match=r"instance 0 of a\.png: RLE is too short"):
        open_coco_instances(path, tmp_path / "images")[0]


def test_missing_and_resized_images_are_faults(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [{"segmentation": box(0, 0, 20, 20), "area": 400}])
    dataset = open_coco_instances(path, tmp_path / "images")
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((30, 50, 3), np.uint8))
    with pytest.raises(DataError, match="the JSON file says"):
        check_dataset(dataset)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        check_dataset(dataset)


def test_a_file_without_large_instances_is_an_error(tmp_path: Path) -> None:
    path = write_coco(tmp_path, [{"segmentation": box(0, 0, 4, 4), "area": 16}])
    with pytest.raises(DataError, match=r"no instance covers 1\.00%"):
        open_coco_instances(path, tmp_path / "images")
    with pytest.raises(DataError, match="no such folder"):
        open_coco_instances(path, tmp_path / "pictures")
