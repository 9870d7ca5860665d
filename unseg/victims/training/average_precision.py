"""Average precision of boxes, masks and boundaries by COCO's rule, through faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from unseg.utils import distributed
from unseg.victims.data.segments import Found, Segments, mask_boxes

Kind = Literal["bbox", "segm", "boundary"]
_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Order of the library's first six figures; the areas' limits are 32 x 32 and 96 x 96 pixels."""

_Picture = tuple[tuple[int, int], list[dict[str, Any]], list[dict[str, Any]]]
"""Size, labels and detections of one picture, in the words of COCO's files."""

MAX_DETECTIONS = 100
"""Detections of a picture that count, those with the largest scores."""


class AveragePrecision:
    """Labels and detections of a whole test set.

    Boxes and areas of labels are those of their masks. COCO's files state them of the polygons,
    which differ by less than a pixel a side.

    Args:
        num_classes: C.
        with_masks: whether detections have masks.
    """

    def __init__(self, num_classes: int, *, with_masks: bool) -> None:
        self.with_masks = with_masks
        self._pictures: list[tuple[int, _Picture]] = []
        self._classes = [{"id": i + 1, "name": str(i)} for i in range(num_classes)]

    def update(self, row: int, truth: Segments, found: Found) -> None:
        """Count picture number `row` of the set, at the size of `truth`."""
        import torch

        masks = truth.masks()
        boxes = mask_boxes(torch.from_numpy(masks)).tolist()
        labels = [
            {
                "category_id": int(truth.categories[i]) + 1,
                "iscrowd": int(truth.is_crowd[i]),
                "segmentation": code,
                "bbox": _corner_and_size(boxes[i]),
                "area": float(masks[i].sum()),
            }
            for i, code in enumerate(_encode(masks))
        ]
        order = found.scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
        codes: list[Any] = [None] * len(order)
        if self.with_masks:
            assert found.masks is not None
            codes = _encode(found.masks[order].cpu().numpy())
        detections = []
        for index, code in zip(order.tolist(), codes, strict=True):
            entry = {
                "category_id": int(found.categories[index]) + 1,
                "score": float(found.scores[index]),
                "bbox": _corner_and_size(found.boxes[index].tolist()),
            }
            detections.append(entry if code is None else {**entry, "segmentation": code})
        self._pictures.append((row, (truth.size, labels, detections)))

    def join(self) -> None:
        """Count what the other processes of the cell have counted, too."""
        self._pictures = list(enumerate(distributed.in_turn(self._pictures)))

    def compute(self, kind: Kind, classes: Sequence[int] | None = None) -> dict[str, float]:
        """`ap` (mean over IoU 0.5 to 0.95), `ap50`, `ap75`, and `ap_small` to `ap_large`.

        Args:
            kind: what overlaps are measured on.
            classes: the mean runs over these alone; all that have labels by default.

        Returns:
            Values in [0, 1]; sizes without any label are left out.

        Raises:
            ValueError: no object is labelled at all.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        data, detections = self._as_coco()
        if not any(not label["iscrowd"] for label in data["annotations"]):
            raise ValueError("average precision needs at least one labelled object")
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(data)
            found = truth.loadRes([self._entry(entry, kind) for entry in detections])
            evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=_quiet)
            if classes is not None:
                evaluation.params.catIds = [i + 1 for i in classes]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = dict(zip(_NAMES, map(float, evaluation.stats), strict=False))
        return {name: value for name, value in values.items() if value >= 0}

    def _as_coco(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The labels as a COCO file has them, and the detections."""
        images: list[dict[str, Any]] = []
        labels: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        for image, (_, (size, own, found)) in enumerate(self._pictures, start=1):
            images.append({"id": image, "height": size[0], "width": size[1]})
            for label in own:
                labels.append({"id": len(labels) + 1, "image_id": image, **label})
            detections += [{"image_id": image, **entry} for entry in found]
        data = {"images": images, "annotations": labels, "categories": self._classes}
        return data, detections

    @staticmethod
    def _entry(entry: dict[str, Any], kind: Kind) -> dict[str, Any]:
        # The library takes a detection that has a box for one of boxes, with its box's area.
        unused = "segmentation" if kind == "bbox" else "bbox"
        return {key: value for key, value in entry.items() if key != unused}


def _encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """COCO's compressed run lengths of masks (K, H, W) bool."""
    from faster_coco_eval.core import mask as library

    if not len(masks):
        return []
    return list(library.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))))


def _corner_and_size(box: Sequence[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _quiet(*_: Any, **__: Any) -> None:
    pass
