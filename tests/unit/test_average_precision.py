"""Average precision equals the library's own on COCO files, and known values on small cases."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from real_data_cases import need

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source
from unseg.victims.data.segments import Found, Segments, mask_boxes, segments_of
from unseg.victims.training.average_precision import AveragePrecision


def square(top: int, left: int, side: int, *, frame: int = 40) -> np.ndarray:
    mask = np.zeros((frame, frame), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def truth(*masks: np.ndarray, classes: list[int] | None = None, crowds: Any = None) -> Segments:
    count = len(masks)
    return Segments.pack(
        np.stack(masks),
        np.array(classes or [0] * count),
        np.array(crowds or [False] * count),
        np.zeros(masks[0].shape, bool),
    )


def found(*masks: np.ndarray, scores: list[float], classes: list[int] | None = None) -> Found:
    stack = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 40, 40).bool()
    return Found(
        categories=torch.tensor(classes or [0] * len(masks), dtype=torch.int64),
        scores=torch.tensor(scores),
        boxes=mask_boxes(stack),
        masks=stack,
    )


def ap(label: Segments, detections: Found, kind: Any = "segm", **extra: Any) -> dict[str, float]:
    metric = AveragePrecision(2, with_masks=True)
    metric.update(0, label, detections)
    return metric.compute(kind, **extra)


A, B = square(2, 2, 10), square(20, 20, 12)


@pytest.mark.parametrize("kind", ["bbox", "segm", "boundary"])
def test_everything_found_is_one_and_nothing_found_is_zero(kind: str) -> None:
    perfect = ap(truth(A, B), found(A, B, scores=[0.9, 0.8]), kind)
    assert perfect["ap"] == pytest.approx(1)
    assert perfect["ap_small"] == pytest.approx(1)
    assert "ap_large" not in perfect  # there is none to be found
    assert ap(truth(A, B), found(scores=[]), kind)["ap"] == 0


def test_a_surer_false_alarm_halves_the_precision_and_a_less_sure_one_costs_nothing() -> None:
    wrong = square(0, 30, 5)
    assert ap(truth(A), found(A, wrong, scores=[0.9, 0.1]))["ap"] == pytest.approx(1)
    assert ap(truth(A), found(A, wrong, scores=[0.1, 0.9]))["ap"] == pytest.approx(0.5)


def test_a_mask_of_iou_two_thirds_passes_four_of_ten_thresholds() -> None:
    partial = A.copy()
    partial[2:4, 2:12] = False
    partial[4:5, 2:9] = False
    partial[5, 2:8] = False
    assert partial.sum() == 67
    scores = ap(truth(A), found(partial, scores=[1.0]))
    assert scores["ap"] == pytest.approx(0.4)  # 0.5, 0.55, 0.6, 0.65
    assert (scores["ap50"], scores["ap75"]) == (1, 0)


def test_crowds_forgive_and_classes_are_kept_apart() -> None:
    label = truth(A, B, crowds=[False, True])
    assert ap(label, found(A, B, scores=[0.5, 0.9]))["ap"] == pytest.approx(1)
    label = truth(A, B, classes=[0, 1])
    swapped = found(A, B, scores=[0.9, 0.9], classes=[0, 0])
    assert ap(label, swapped)["ap"] == pytest.approx(0.5)
    assert ap(label, swapped, classes=[0])["ap"] == pytest.approx(1)


def test_a_set_without_objects_has_no_average_precision() -> None:
    with pytest.raises(ValueError, match="at least one labelled object"):
        ap(truth(A, crowds=[True]), found(A, scores=[1.0]))


def library_figures(path: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """What the library reports when it reads the file itself."""
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        label = COCO(str(path))
        evaluation = COCOeval_faster(label, label.loadRes(results), iouType=kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(v) for v in evaluation.stats[:6]]


def check_against_library(
    root: Path, file: str, images: str, folder: Path, *, kinds: tuple[str, ...]
) -> None:
    """Displaced labels as detections, through our adapter and straight from the file."""
    from faster_coco_eval.core import mask as library

    content = json.loads((root / file).read_text())
    source = build_source(
        DatasetConfig(format="coco", root=str(root), images=images, annotations=file)
    )
    rank = {c: i for i, c in enumerate(sorted(source.class_names))}
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    metric = AveragePrecision(len(rank), with_masks=True)
    rng, results = np.random.default_rng(0), []
    boxes_of: dict[int, list[float]] = {}
    for row, item in enumerate(source.items()):
        annotation = source.read(item)
        label = segments_of(annotation, rank, open_background=True)
        metric.update(row, label, detections := displaced(label, rng))
        assert detections.masks is not None
        codes = library.encode(
            np.asfortranarray(detections.masks.permute(1, 2, 0).numpy().astype(np.uint8))
        )
        for code, category, score in zip(
            codes, detections.categories, detections.scores, strict=True
        ):
            results.append(
                {"image_id": ids[item.key], "segmentation": code, "score": float(score),
                 "category_id": sorted(rank)[category]}
            )  # fmt: skip
        for segment in annotation.segments:
            boxes_of[segment.instance_id] = [float(segment.mask.sum()), *mask_boxes(
                torch.from_numpy(segment.mask)[None]
            )[0].tolist()]  # fmt: skip
    # Areas and boxes of masks instead of those that the file states of its polygons.
    for entry in content["annotations"]:
        area, left, top, right, bottom = boxes_of[entry["id"]]
        entry |= {"area": area, "bbox": [left, top, right - left, bottom - top]}
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    for kind in kinds:
        if kind == "bbox":
            for result in results:
                result["bbox"] = library.toBbox(result.pop("segmentation")).tolist()
        expected = library_figures(path, [dict(r) for r in results], kind)
        ours = metric.compute(kind)
        for name, value in zip(
            ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"), expected, strict=True
        ):
            assert ours.get(name, -1.0) == pytest.approx(value, abs=1e-9), (kind, name)
        assert 0.05 < ours["ap"] < 0.98


def displaced(label: Segments, rng: np.random.Generator) -> Found:
    masks = label.masks()
    kept = [i for i in range(len(masks)) if rng.random() < 0.9]
    moved = [np.roll(masks[i], rng.integers(-3, 4, 2), (0, 1)) for i in kept]
    stack = np.stack(moved) if moved else np.zeros((0, *label.size), bool)
    return Found(
        categories=torch.from_numpy(label.categories[kept]),
        scores=torch.from_numpy(rng.random(len(kept))),
        boxes=mask_boxes(torch.from_numpy(stack)),
        masks=torch.from_numpy(stack),
    )


def test_equal_to_the_library_on_a_generated_coco_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for image in range(1, 7):
        images.append({"id": image, "file_name": f"{image}.png", "height": 150, "width": 200})
        cv2.imwrite(str(tmp_path / f"images/{image}.png"), np.zeros((150, 200, 3), np.uint8))
        for _ in range(int(rng.integers(1, 7))):
            x, y = rng.uniform(0, 120), rng.uniform(0, 80)
            w, h = rng.uniform(8, 110, 2)
            x2, y2 = min(x + w, 199), min(y + h, 149)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "bbox": [0, 0, 1, 1], "area": 1,
                 "category_id": int(rng.choice((3, 8))), "iscrowd": int(rng.random() < 0.1),
                 "segmentation": [[x, y, x2, y, x2, y2, (x + x2) / 2, y2, x, (y + y2) / 2]]}
            )  # fmt: skip
    categories = [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    kinds = ("segm", "boundary", "bbox")
    check_against_library(tmp_path, "labels.json", "images", tmp_path, kinds=kinds)


@pytest.mark.slow
def test_equal_to_the_library_on_real_coco_objects(tmp_path: Path, real_data: Path) -> None:
    need(real_data, "coco/val2017", "coco/annotations/instances_val2017.json")
    content = json.loads((real_data / "coco/annotations/instances_val2017.json").read_text())
    content["images"] = content["images"][:100]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    (tmp_path / "some.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        shutil.copy(real_data / "coco/val2017" / image["file_name"], tmp_path / "images")
    # Boundaries of a thousand objects take the library a minute; the generated file has them.
    check_against_library(tmp_path, "some.json", "images", tmp_path, kinds=("segm", "bbox"))
