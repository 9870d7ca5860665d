"""From queries with a class and a mask to segments, instances and class maps.

The rules of Mask2Former (Cheng et al., CVPR 2022, appendix) at the size at which masks are scored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unseg.victims.data.segments import Found, mask_boxes


def class_scores(logits: Tensor, masks: Tensor) -> Tensor:
    """Score of each class at each pixel, summed over queries: (C, H, W).

    Args:
        logits: (Q, C + 1), the last one means no object.
        masks: (Q, H, W) logits.
    """
    return torch.einsum("qc,qhw->chw", logits.softmax(-1)[:, :-1], masks.sigmoid())


def instances(logits: Tensor, masks: Tensor, *, limit: int = 100) -> Found:
    """The surest pairs of a query and a class.

    The score is the class's probability times the mean probability of the mask's pixels.

    Args:
        logits: (Q, C + 1), the last one means no object.
        masks: (Q, H, W) logits.
        limit: number of answers.
    """
    probability = logits.softmax(-1)[:, :-1]
    num_classes = probability.shape[1]
    scores, pairs = probability.flatten().topk(min(limit, probability.numel()))
    queries, categories = pairs // num_classes, pairs % num_classes
    is_inside = masks > 0
    inside = is_inside.flatten(1).sum(1).clamp(min=1)
    sureness = (masks.sigmoid() * is_inside).flatten(1).sum(1) / inside
    chosen = is_inside[queries]
    return Found(categories, scores * sureness[queries], mask_boxes(chosen), chosen)


def panoptic(
    logits: Tensor,
    masks: Tensor,
    *,
    things: frozenset[int],
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> Found:
    """Segments that do not overlap; each pixel goes to the query that wants it most.

    Args:
        logits: (Q, C + 1), the last one means no object.
        masks: (Q, H, W) logits.
        things: classes whose segments stay apart; those of another class are one.
        object_threshold: smallest probability of a query's class.
        overlap_threshold: smallest share of its mask that a query must keep.
    """
    num_classes = logits.shape[1] - 1
    scores, categories = logits.softmax(-1).max(-1)
    is_kept = (categories < num_classes) & (scores > object_threshold)
    scores, categories, wanted = scores[is_kept], categories[is_kept], masks[is_kept].sigmoid()
    empty = Found(categories[:0], scores[:0], wanted.new_zeros(0, 4), masks[:0] > 0)
    if not len(scores):
        return empty
    winner = (scores[:, None, None] * wanted).argmax(0)
    found: list[tuple[int, float, Tensor]] = []
    for query in range(len(scores)):
        is_wanted, is_won = wanted[query] >= 0.5, winner == query
        mask = is_wanted & is_won
        area = int(is_wanted.sum())
        if not mask.any() or int(is_won.sum()) < overlap_threshold * area:
            continue
        found.append((int(categories[query]), float(scores[query]), mask))
    merged: list[tuple[int, float, Tensor]] = []
    for category, score, mask in found:
        rows = [i for i, other in enumerate(merged) if other[0] == category not in things]
        if not rows:
            merged.append((category, score, mask))
            continue
        _, other_score, other_mask = merged[rows[0]]
        merged[rows[0]] = (category, max(score, other_score), mask | other_mask)
    if not merged:
        return empty
    stack = torch.stack([mask for _, _, mask in merged])
    return Found(
        torch.tensor([c for c, _, _ in merged], device=logits.device),
        torch.tensor([s for _, s, _ in merged], device=logits.device),
        mask_boxes(stack),
        stack,
    )
