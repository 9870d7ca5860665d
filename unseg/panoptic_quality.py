"""Panoptic quality by the rule of panopticapi (Kirillov et al., CVPR 2019).

Own code, because torchmetrics' differs from the rule wherever a prediction leaves pixels without a
segment: they belong to no prediction, and still to the union of what they cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_SEGMENT = -1
"""In a prediction: nothing was predicted here. In a label: this pixel does not count."""

OPEN_GROUND = -2
"""In a label: a pixel that counts and belongs to no segment."""


@dataclass(frozen=True)
class PanopticScore:
    """Means over classes, each in [0, 1].

    Attributes:
        pq: panoptic quality, the mean of `sq * rq` of the classes.
        sq: segmentation quality, mean IoU of what was matched.
        rq: recognition quality, F1 of finding segments.
        num_classes: classes that are present or predicted.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


class PanopticQuality:
    """Counts of a whole test set.

    Attributes:
        hits: (C,) int64 matched segments.
        false_alarms: (C,) int64 predicted segments without a match.
        misses: (C,) int64 labelled segments without a match.
        overlap: (C,) float64 summed IoU of the matches.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.hits, self.false_alarms, self.misses = torch.zeros(3, num_classes, dtype=torch.int64)
        self.overlap = torch.zeros(num_classes, dtype=torch.float64)

    def update(
        self,
        pred: Tensor,
        pred_classes: Tensor,
        target: Tensor,
        target_classes: Tensor,
        is_crowd: Tensor,
    ) -> None:
        """Count the segments of one picture.

        A pair is a match where the classes agree and the IoU exceeds a half; pixels of the
        prediction that do not count in the label are left out of the union. A prediction that
        lies for more than a half on such pixels, or on crowds of its class, is no false alarm.

        Args:
            pred: (H, W) int, row of `pred_classes`, or `NO_SEGMENT`.
            pred_classes: (P,) int64 in [0, C).
            target: (H, W) int, row of `target_classes`, `NO_SEGMENT` or `OPEN_GROUND`.
            target_classes: (T,) int64 in [0, C).
            is_crowd: (T,) bool: a group, which is neither matched nor missed.

        Raises:
            ValueError: the maps differ in size.
        """
        if pred.shape != target.shape:
            raise ValueError(f"prediction is {tuple(pred.shape)}, label is {tuple(target.shape)}")
        areas = _overlaps(pred, len(pred_classes), target, len(target_classes))
        pred_area, target_area = areas[2:].sum(1), areas.sum(0)
        uncounted, shared = areas[2:, 1], areas[2:, 2:]
        union = (pred_area - uncounted)[:, None] + target_area[None, 2:] - shared
        iou = shared.double() / union.clamp(min=1)
        is_same = pred_classes[:, None] == target_classes[None]
        is_match = (iou > 0.5) & is_same & ~is_crowd[None]
        # More than a half of both: no segment can have two matches.
        rows, columns = is_match.nonzero(as_tuple=True)
        self.hits += self._count(pred_classes[rows])
        self.overlap.index_add_(0, pred_classes[rows], iou[rows, columns])
        is_missed = ~is_match.any(0) & ~is_crowd & (target_area[2:] > 0)
        self.misses += self._count(target_classes[is_missed])
        ignored = uncounted + (shared * (is_same & is_crowd[None])).sum(1)
        is_alarm = ~is_match.any(1) & (pred_area > 0) & (2 * ignored <= pred_area)
        self.false_alarms += self._count(pred_classes[is_alarm])

    def _count(self, classes: Tensor) -> Tensor:
        return torch.bincount(classes, minlength=self.num_classes)

    def score(self, classes: Sequence[int] | None = None) -> PanopticScore:
        """Means over the classes that are present or predicted.

        Args:
            classes: the mean runs over these alone (things, stuff); all by default.
        """
        chosen = list(range(self.num_classes)) if classes is None else list(classes)
        hits, overlap = self.hits[chosen].double(), self.overlap[chosen]
        weight = hits + (self.false_alarms[chosen] + self.misses[chosen]) / 2
        is_known = weight > 0
        if not is_known.any():
            return PanopticScore(0.0, 0.0, 0.0, 0)
        hits, overlap, weight = hits[is_known], overlap[is_known], weight[is_known]
        return PanopticScore(
            pq=float((overlap / weight).mean()),
            sq=float((overlap / hits.clamp(min=1)).mean()),
            rq=float((hits / weight).mean()),
            num_classes=int(is_known.sum()),
        )


def _overlaps(pred: Tensor, num_pred: int, target: Tensor, num_target: int) -> Tensor:
    """(2 + P, 2 + T) int64 pixels shared by each pair.

    Rows and columns begin with `OPEN_GROUND` and `NO_SEGMENT`; segments follow.
    """
    pairs = (pred.flatten().long() + 2) * (num_target + 2) + target.flatten().long() + 2
    counts = torch.bincount(pairs, minlength=(num_pred + 2) * (num_target + 2))
    return counts.reshape(num_pred + 2, num_target + 2)
