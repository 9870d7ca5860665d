"""What a victim learns and how it is scored, and the tasks whose label is a map of classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.metrics import ConfusionMatrix, boundary_iou, constant_prediction
from unseg.utils import distributed
from unseg.victims.data.picture_set import Pictures
from unseg.victims.data.segments import label_targets
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet, as_input, unfit_logits
from unseg.victims.networks.victim import ObjectVictim, Victim, autocast, channels_last
from unseg.victims.training.portion import Portion


class Task(Protocol):
    """What a victim learns and how it is scored; fitting and reports know no more of it."""

    @property
    def metric(self) -> str:
        """What tables call the score."""
        ...

    @property
    def num_classes(self) -> int:
        """C, of the victim."""
        ...

    def loss(
        self,
        victim: Any,
        images: Tensor,
        target: Any,
        *,
        dice: bool,
        portion: Portion | None = None,
    ) -> Tensor:
        """Loss on an augmented batch, or the contribution of a portion of one."""
        ...

    def score(self, victim: Any, data: Pictures) -> float:
        """The score of a whole set, in [0, 1], the same on every process."""
        ...

    def details(self, victim: Any, data: Pictures) -> dict[str, float]:
        """All scores of a whole set; `score` is among them."""
        ...

    def floor(self, test: Pictures) -> float:
        """Score of the trivial predictor."""
        ...

    def label_maps(self, victim: Any, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Labels and predictions of a few pictures for a figure, (N, S, S) uint8 both."""
        ...


@dataclass(frozen=True)
class ClassMapTask:
    """The tasks whose label is a map of classes.

    Attributes:
        num_classes: C.
        task: "foreground" (IoU of class 1) or "semantic" (mean IoU).
        score_classes: the mean runs over these; empty: over all.
        batch_size: pictures scored at once.
        precision: "float32" or "bfloat16".
    """

    num_classes: int
    task: str = "foreground"
    score_classes: tuple[int, ...] = ()
    batch_size: int = 32
    precision: str = "float32"

    def main(self, counts: ConfusionMatrix) -> float:
        """The score that tables show."""
        if self.task == "foreground":
            return counts.foreground_iou()
        return counts.mean_iou(self.score_classes or None)

    @property
    def metric(self) -> str:
        """What tables call the score."""
        return "IoU" if self.task == "foreground" else "mIoU"

    def loss(
        self,
        victim: Victim,
        images: Tensor,
        target: Any,
        *,
        dice: bool,
        portion: Portion | None = None,
    ) -> Tensor:
        """Loss on pictures (B, 3, S, S) in [0, 1] with labels (B, S, S).

        A victim that learns segments takes each class of a label as one.
        """
        with autocast(images.device, self.precision):
            if isinstance(victim, ObjectVictim):
                loss = victim.loss(images, label_targets(target, self.num_classes))
                return loss if portion is None else portion.of_mean(loss)
            logits = victim(images)
        return segmentation_loss(logits.float(), target, dice=dice, portion=portion)

    def score(self, victim: Victim, data: Pictures) -> float:
        """The score that tables show, of a whole set."""
        return self.main(self.count(victim, data))

    def floor(self, test: Pictures) -> float:
        """Score of the predictor that has learnt nothing, the floor of protection.

        0 for foreground IoU; for the mean IoU what calling everything the most frequent class (the
        background, where there is one) scores.
        """
        if self.task == "foreground":
            return 0.0
        pixels = torch.zeros(self.num_classes, dtype=torch.int64)
        for _, batch in scored_batches(test, self.batch_size):
            pixels += batch.class_pixels(self.num_classes)
        pixels = distributed.all_reduce_sum(pixels)
        return self.main(constant_prediction(pixels, int(pixels.argmax())))

    @torch.no_grad()
    def label_maps(self, victim: Victim, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Labels and predictions of a few pictures for a figure, (N, S, S) uint8 both."""
        victim.eval()
        predicted = self.predict(victim, data.images).argmax(1).to(torch.uint8).cpu()
        return data.labels, predicted

    @torch.no_grad()
    def count(self, victim: Victim, data: Pictures) -> ConfusionMatrix:
        """Confusion matrix over a whole set."""
        counts = ConfusionMatrix(self.num_classes, IGNORED_LABEL)
        for _, predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
        counts.matrix = distributed.all_reduce_sum(counts.matrix)
        return counts

    @torch.no_grad()
    def details(self, victim: Victim, data: Pictures) -> dict[str, float]:
        """All scores of a set: `score`, `accuracy`, and Dice and boundary IoU of foreground."""
        counts = ConfusionMatrix(self.num_classes, IGNORED_LABEL)
        borders: list[tuple[int, list[float]]] = []
        for row, predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
            if self.task == "foreground":
                counted = labels != IGNORED_LABEL
                found, true = (predicted == 1) & counted, (labels == 1) & counted
                borders.append((row, boundary_iou(found[:, None], true[:, None]).tolist()))
        counts.matrix = distributed.all_reduce_sum(counts.matrix)
        scores = {"score": self.main(counts), "accuracy": counts.accuracy()}
        if self.task == "foreground":
            values = [value for part in distributed.in_turn(borders) for value in part]
            scores["dice"] = counts.foreground_dice()
            scores["boundary_iou"] = float(torch.tensor(values).mean())
        return scores

    def predict(self, victim: Victim, images: Tensor) -> Tensor:
        """Logits (B, C, S, S) of pictures (B, 3, S, S) uint8; the victim must be in eval mode."""
        device = next(victim.parameters()).device
        with autocast(device, self.precision):
            return victim(channels_last(as_input(images.to(device)))).float()

    def _predictions(self, victim: Victim, data: Pictures) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Row of the first picture, predicted classes and labels, of some pictures at a time."""
        was_training = victim.training
        victim.eval()
        for first, batch in scored_batches(data, self.batch_size):
            logits = self.predict(victim, batch.images)
            if batch.native_labels is None:
                yield first, logits.argmax(1).cpu(), batch.labels
                continue
            for i, label in enumerate(batch.native_labels):
                native = unfit_logits(logits[i : i + 1], batch.extents[i], label.shape)
                yield first + i, native.argmax(1).cpu(), torch.from_numpy(label)[None]
        victim.train(was_training)


def scored_batches(data: Pictures, batch_size: int) -> Iterator[tuple[int, TensorSet]]:
    """The batches of a set that this process scores, each with the row of its first picture.

    Batches are dealt out to the processes that work together, and are the same whatever their
    number.
    """
    step = batch_size * distributed.world_size()
    firsts = range(batch_size * distributed.rank(), len(data), step)
    chunks = [range(first, min(first + batch_size, len(data))) for first in firsts]
    return zip(firsts, data.batches(chunks), strict=True)


def segmentation_loss(
    logits: Tensor, target: Tensor, *, dice: bool = False, portion: Portion | None = None
) -> Tensor:
    """Cross-entropy over the pixels that count, optionally with the soft Dice loss.

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) int64, `IGNORED_LABEL` where nothing counts.
        dice: add `1 - mean Dice` over the classes but the first, sums running over the batch.
        portion: where these are a part of a batch.

    Returns:
        Scalar; 0 (with a gradient of 0) where nothing counts at all. Of a portion: what it
        contributes.
    """
    counted = (target != IGNORED_LABEL).float()
    per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORED_LABEL, reduction="none")
    total = counted.sum() if portion is None or portion.counted is None else portion.counted
    loss = per_pixel.sum() / total.clamp(min=1)
    if not dice:
        return loss
    overlap, sizes = dice_sums(logits, target)
    if portion is None:
        return loss + 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
    overlap, sizes = portion.whole(overlap), portion.whole(sizes)
    return loss + portion.of_joint(1 - ((2 * overlap + 1) / (sizes + 1)).mean())


def dice_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(C - 1,) overlap and summed sizes of prediction and label, of each class but the first."""
    counted = (target != IGNORED_LABEL).float()
    probabilities = logits.softmax(1) * counted[:, None]
    classes = torch.where(target == IGNORED_LABEL, 0, target)
    truth = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    overlap = (probabilities * truth).sum((0, 2, 3))[1:]
    sizes = (probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3)))[1:]
    return overlap, sizes
