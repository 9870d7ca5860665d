"""Tasks that know objects: panoptic, instance, detection and interactive.

A task turns what victims find into a score in [0, 1]; a victim's own family decides how it learns.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unseg.metrics import boundary_iou, iou
from unseg.panoptic_quality import OPEN_GROUND, PanopticQuality
from unseg.utils import distributed
from unseg.victims.data.picture_set import Pictures
from unseg.victims.data.segments import Found, Frame, Segments, mask_boxes, paint
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet, as_input
from unseg.victims.networks.victim import ObjectVictim, autocast, channels_last
from unseg.victims.training.average_precision import AveragePrecision
from unseg.victims.training.class_map_task import scored_batches
from unseg.victims.training.portion import Portion

Prompted = tuple[int, str, Tensor, Tensor]
"""Row, key, true and found masks (K, H, W) of a picture, in the order of the prompts."""

METRICS = {
    "panoptic": "PQ",
    "instance": "mask AP",
    "detection": "box AP",
    "interactive": "mIoU of prompted masks",
}


@dataclass(frozen=True)
class ObjectTask:
    """The tasks whose label is a list of segments.

    Attributes:
        num_classes: C.
        task: a key of `METRICS`.
        score_classes: the mean runs over these; empty: over all.
        batch_size: pictures scored at once.
        precision: "float32" or "bfloat16".
        things: panoptic: countable classes.
        groups: interactive: folders of test pictures that are data sets of their own; the score is
            the mean of theirs.
    """

    num_classes: int
    task: str
    score_classes: tuple[int, ...] = ()
    batch_size: int = 8
    precision: str = "float32"
    things: frozenset[int] = frozenset()
    groups: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What tables call the score."""
        return METRICS[self.task]

    def loss(
        self,
        victim: ObjectVictim,
        images: Tensor,
        target: Any,
        *,
        dice: bool = False,
        portion: Portion | None = None,
    ) -> Tensor:
        """The victim's own loss on pictures (B, 3, S, S) in [0, 1] and their targets.

        Each family divides by its own number of objects, so the loss of a batch in several parts
        is the mean of theirs, as in the programs of the families themselves.
        """
        del dice  # each family has a loss of its own
        with autocast(images.device, self.precision):
            loss = victim.loss(images, target)
        return loss if portion is None else portion.of_mean(loss)

    def score(self, victim: ObjectVictim, data: Pictures) -> float:
        """The score that tables show, of a whole set."""
        if self.task not in ("instance", "detection"):
            return self.details(victim, data)["score"]
        return self._precision(victim, data).compute(self._kind, self._classes)["ap"]

    def details(self, victim: ObjectVictim, data: Pictures) -> dict[str, float]:
        """All scores of a set.

        `score` is PQ, AP or mIoU; beside it stand sq, rq and PQ of things and stuff, AP by size and
        threshold and of boundaries, or the boundary IoU and both of each data set.
        """
        if self.task == "panoptic":
            return self._panoptic(victim, data)
        if self.task == "interactive":
            return self._interactive(self._prompted(victim, data))
        found = self._precision(victim, data)
        scores = found.compute(self._kind, self._classes)
        scores = {"score": scores.pop("ap"), **scores}
        if self.task == "instance":
            scores["boundary_ap"] = found.compute("boundary", self._classes)["ap"]
            scores["box_ap"] = found.compute("bbox", self._classes)["ap"]
        return scores

    def floor(self, test: Pictures) -> float:
        """Score of the trivial predictor: 0 for PQ and AP; for prompts, that of the filled box."""
        if self.task != "interactive":
            return 0.0
        return self._interactive(self._filled_boxes(test))["score"]

    def _filled_boxes(self, test: Pictures) -> Iterator[Prompted]:
        for first, batch in scored_batches(test, self.batch_size):
            for i, key in enumerate(batch.keys):
                truth, _ = batch.scored(i)
                masks = torch.from_numpy(truth.masks()[~truth.is_crowd])
                yield first + i, key, masks, _filled(mask_boxes(masks), truth.size)

    def label_maps(self, victim: ObjectVictim, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Objects of a few pictures in a figure's colours: label and prediction, (N, S, S) uint8.

        0 where nothing is, then a number for each segment, `IGNORED_LABEL` where nothing counts.
        """
        frame = TensorSet(data.images, data.labels, data.keys, data.extents, segments=data.segments)
        labels, predicted = [], []
        for _, truth, found in self._found(victim, frame):
            masks = truth.masks()
            label = paint(masks, _colours(len(masks)))
            label[truth.void_mask()] = IGNORED_LABEL
            labels.append(np.maximum(label, 0).astype(np.uint8))
            sure = found.scores > 0.5
            masks = (found.masks if found.masks is not None else _filled(found.boxes, truth.size))[
                sure
            ].numpy()
            predicted.append(np.maximum(paint(masks, _colours(len(masks))), 0).astype(np.uint8))
        return torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(predicted))

    @property
    def _kind(self) -> Any:
        return "segm" if self.task == "instance" else "bbox"

    @property
    def _classes(self) -> tuple[int, ...] | None:
        return self.score_classes or None

    @torch.no_grad()
    def _found(
        self, victim: ObjectVictim, batch: TensorSet
    ) -> Iterator[tuple[str, Segments, Found]]:
        """Key, label and prediction of every picture; predictions are on the CPU."""
        was_training = victim.training
        victim.eval()
        device = next(victim.parameters()).device
        scored = [batch.scored(row) for row in range(len(batch))]
        images = channels_last(as_input(batch.images.to(device)))
        boxes = None
        if self.task == "interactive":
            boxes = [_prompts(truth, frame).to(device) for truth, frame in scored]
        with autocast(device, self.precision):
            found = victim.find(
                images, [f for _, f in scored], task=self.task, things=self.things, boxes=boxes
            )
        victim.train(was_training)
        for key, (truth, _), answer in zip(batch.keys, scored, found, strict=True):
            masks = None if answer.masks is None else answer.masks.cpu()
            on_cpu = (answer.categories.cpu(), answer.scores.float().cpu(), answer.boxes.cpu())
            yield key, truth, Found(*on_cpu, masks)

    def _share(
        self, victim: ObjectVictim, data: Pictures
    ) -> Iterator[tuple[int, str, Segments, Found]]:
        """Row, key, label and prediction of the pictures that this process scores."""
        for first, batch in scored_batches(data, self.batch_size):
            for i, picture in enumerate(self._found(victim, batch)):
                yield first + i, *picture

    def _precision(self, victim: ObjectVictim, data: Pictures) -> AveragePrecision:
        metric = AveragePrecision(self.num_classes, with_masks=self.task == "instance")
        for row, _, truth, found in self._share(victim, data):
            metric.update(row, truth, found)
        metric.join()
        return metric

    def _panoptic(self, victim: ObjectVictim, data: Pictures) -> dict[str, float]:
        metric = PanopticQuality(self.num_classes)
        for _, _, truth, found in self._share(victim, data):
            target = paint(truth.masks(), range(len(truth)))
            target[(target < 0) & ~truth.void_mask()] = OPEN_GROUND
            assert found.masks is not None
            pred = paint(found.masks.numpy(), range(len(found.categories)))
            metric.update(
                torch.from_numpy(pred),
                found.categories,
                torch.from_numpy(target),
                torch.from_numpy(truth.categories),
                torch.from_numpy(truth.is_crowd),
            )
        for name in ("hits", "false_alarms", "misses", "overlap"):
            setattr(metric, name, distributed.all_reduce_sum(getattr(metric, name)))
        chosen = set(self.score_classes or range(self.num_classes))
        whole = metric.score(sorted(chosen))
        scores = {"score": whole.pq, "sq": whole.sq, "rq": whole.rq}
        for name, part in (("pq_things", self.things), ("pq_stuff", chosen - self.things)):
            if chosen & part and chosen - part:
                scores[name] = metric.score(sorted(chosen & part)).pq
        return scores

    def _prompted(self, victim: ObjectVictim, data: Pictures) -> Iterator[Prompted]:
        for row, key, truth, found in self._share(victim, data):
            assert found.masks is not None
            yield row, key, torch.from_numpy(truth.masks()[~truth.is_crowd]), found.masks

    def _interactive(self, pictures: Iterator[Prompted]) -> dict[str, float]:
        """Mean of the objects of a picture, then of pictures, then of data sets."""
        own: list[tuple[int, tuple[str, float, float]]] = []
        for row, key, true, found in pictures:
            if not len(true):
                continue
            both = [f(found[:, None], true[:, None]).mean().item() for f in (iou, boundary_iou)]
            group = max((g for g in self.groups if key.startswith(g)), key=len, default="")
            own.append((row, (group, both[0], both[1])))
        scores: dict[str, list[tuple[float, float]]] = {}
        for group, overlap, border in distributed.in_turn(own):
            scores.setdefault(group, []).append((overlap, border))
        means = {
            group: [statistics.fmean(values) for values in zip(*rows, strict=True)]
            for group, rows in sorted(scores.items())
        }
        if not means:
            raise ValueError("no object to prompt for in the whole set")
        details = {
            "score": statistics.fmean(m[0] for m in means.values()),
            "boundary_iou": statistics.fmean(m[1] for m in means.values()),
        }
        for group, (overlap, border) in means.items():
            if len(means) > 1:
                details |= {f"miou {group}": overlap, f"boundary_iou {group}": border}
        return details


def _prompts(truth: Segments, frame: Frame) -> Tensor:
    """Boxes around the true objects, (K, 4) in pixels of the victim's square."""
    masks = torch.from_numpy(truth.masks()[~truth.is_crowd])
    return frame.unscale_boxes(mask_boxes(masks))


def _filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (K, 4) as masks (K, H, W) bool."""
    y = torch.arange(size[0])[None, :, None] + 0.5
    x = torch.arange(size[1])[None, None, :] + 0.5
    left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(1))
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _colours(count: int) -> Sequence[int]:
    return [1 + i % 254 for i in range(count)]
