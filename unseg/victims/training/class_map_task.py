"""What a victim learns and how it is scored, and the tasks whose label is a map of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.metrics import ConfusionMatrix, boundary_iou, constant_prediction
from unseg.victims.data.segments import label_targets
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet, as_input, unfit_logits
from unseg.victims.networks.victim import ObjectVictim, Victim, autocast, channels_last


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

    def loss(self, victim: Any, images: Tensor, target: Any, *, dice: bool) -> Tensor:
        """Loss on a batch of `TensorSet.batch`."""
        ...

    def score(self, victim: Any, data: TensorSet) -> float:
        """The score of a whole set, in [0, 1]."""
        ...

    def details(self, victim: Any, data: TensorSet) -> dict[str, float]:
        """All scores of a whole set; `score` is among them."""
        ...

    def floor(self, test: TensorSet) -> float:
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

    def loss(self, victim: Victim, images: Tensor, target: Any, *, dice: bool) -> Tensor:
        """Loss on pictures (B, 3, S, S) in [0, 1] with labels (B, S, S).

        A victim that learns segments takes each class of a label as one.
        """
        with autocast(images.device, self.precision):
            if isinstance(victim, ObjectVictim):
                return victim.loss(images, label_targets(target, self.num_classes))
            logits = victim(images)
        return segmentation_loss(logits.float(), target, dice=dice)

    def score(self, victim: Victim, data: TensorSet) -> float:
        """The score that tables show, of a whole set."""
        return self.main(self.count(victim, data))

    def floor(self, test: TensorSet) -> float:
        """Score of the predictor that has learnt nothing, the floor of protection.

        0 for foreground IoU; for the mean IoU what calling everything the most frequent class (the
        background, where there is one) scores.
        """
        if self.task == "foreground":
            return 0.0
        pixels = test.class_pixels(self.num_classes)
        return self.main(constant_prediction(pixels, int(pixels.argmax())))

    @torch.no_grad()
    def label_maps(self, victim: Victim, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Labels and predictions of a few pictures for a figure, (N, S, S) uint8 both."""
        victim.eval()
        predicted = self.predict(victim, data.images).argmax(1).to(torch.uint8).cpu()
        return data.labels, predicted

    @torch.no_grad()
    def count(self, victim: Victim, data: TensorSet) -> ConfusionMatrix:
        """Confusion matrix over a whole set."""
        counts = ConfusionMatrix(self.num_classes, IGNORED_LABEL)
        for predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
        return counts

    @torch.no_grad()
    def details(self, victim: Victim, data: TensorSet) -> dict[str, float]:
        """All scores of a set: `score`, `accuracy`, and Dice and boundary IoU of foreground."""
        counts = ConfusionMatrix(self.num_classes, IGNORED_LABEL)
        borders = []
        for predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
            if self.task == "foreground":
                counted = labels != IGNORED_LABEL
                found, true = (predicted == 1) & counted, (labels == 1) & counted
                borders.append(boundary_iou(found[:, None], true[:, None]))
        scores = {"score": self.main(counts), "accuracy": counts.accuracy()}
        if self.task == "foreground":
            scores["dice"] = counts.foreground_dice()
            scores["boundary_iou"] = float(torch.cat(borders).mean())
        return scores

    def predict(self, victim: Victim, images: Tensor) -> Tensor:
        """Logits (B, C, S, S) of pictures (B, 3, S, S) uint8; the victim must be in eval mode."""
        device = next(victim.parameters()).device
        with autocast(device, self.precision):
            return victim(channels_last(as_input(images.to(device)))).float()

    def _predictions(self, victim: Victim, data: TensorSet) -> Any:
        was_training = victim.training
        victim.eval()
        for start in range(0, len(data), self.batch_size):
            rows = slice(start, start + self.batch_size)
            logits = self.predict(victim, data.images[rows])
            if data.native_labels is None:
                yield logits.argmax(1).cpu(), data.labels[rows]
                continue
            for i, label in enumerate(data.native_labels[rows]):
                native = unfit_logits(logits[i : i + 1], data.extents[start + i], label.shape)
                yield native.argmax(1).cpu(), torch.from_numpy(label)[None]
        victim.train(was_training)


def segmentation_loss(logits: Tensor, target: Tensor, *, dice: bool = False) -> Tensor:
    """Cross-entropy over the pixels that count, optionally with the soft Dice loss.

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) int64, `IGNORED_LABEL` where nothing counts.
        dice: add `1 - mean Dice` over the classes but the first, sums running over the batch.

    Returns:
        Scalar; 0 (with a gradient of 0) where nothing counts at all.
    """
    counted = (target != IGNORED_LABEL).float()
    per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORED_LABEL, reduction="none")
    loss = per_pixel.sum() / counted.sum().clamp(min=1)
    if not dice:
        return loss
    probabilities = logits.softmax(1) * counted[:, None]
    classes = torch.where(target == IGNORED_LABEL, 0, target)
    truth = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    overlap = (probabilities * truth).sum((0, 2, 3))[1:]
    sizes = (probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3)))[1:]
    return loss + 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
