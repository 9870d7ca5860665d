"""Mask2Former (Cheng et al., CVPR 2022) as a victim for maps of classes and for segments.

The rules that make answers of queries are those of the paper's appendix, at the size at which masks
are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.victims.data.segments import Found, Frame, Target, mask_boxes
from unseg.victims.networks.victim import NetworkOptions, ObjectVictim

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_LIBRARY = {
    "resnet50": "microsoft/resnet-50",
    "swin_t": "microsoft/swin-tiny-patch4-window7-224",
}


def build_mask2former(options: NetworkOptions, *, backbone: str) -> nn.Module:
    """The network of transformers with random weights, or with an ImageNet backbone (download).

    Args:
        options: width scales the channels of decoders and queries.
        backbone: "resnet50" or "swin_t".
    """
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    hidden = max(1, round((32 if options.tiny else 256) * options.width / 32)) * 32
    arguments: dict[str, Any] = {
        "backbone_config": _backbone(backbone, tiny=options.tiny),
        "num_labels": options.num_classes,
        "feature_size": hidden,
        "mask_feature_size": hidden,
        "hidden_dim": hidden,
    }
    if options.tiny:
        arguments |= {
            "encoder_feedforward_dim": 2 * hidden,
            "dim_feedforward": 2 * hidden,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "num_attention_heads": 2,
            "num_queries": 8,
            "train_num_points": 256,
        }
    network = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**arguments))
    if options.pretrained:
        from transformers import AutoBackbone

        stages = AutoBackbone.from_pretrained(_LIBRARY[backbone], out_features=_STAGES)
        network.model.pixel_level_module.encoder.load_state_dict(stages.state_dict())
    return network


def _backbone(name: str, *, tiny: bool) -> Any:
    from transformers import ResNetConfig, SwinConfig

    if name == "resnet50":
        if not tiny:
            return ResNetConfig(out_features=_STAGES)
        return ResNetConfig(
            embedding_size=8,
            hidden_sizes=[16, 16, 24, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=_STAGES,
        )
    if not tiny:
        return SwinConfig(
            embed_dim=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
            drop_path_rate=0.3,
            out_features=_STAGES,
        )
    return SwinConfig(
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        drop_path_rate=0.0,
        out_features=_STAGES,
    )


class Mask2Former(ObjectVictim):
    """Queries, each with a class and a mask; the library's loss, our own way from them to answers.

    The library resamples every mask to 384 x 384 first, which costs thin objects; here each is
    brought to the size at which it is scored once.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, C, H, W), which need no softmax, of pictures (B, 3, H, W) in [0, 1]."""
        logits, masks = self._queries(image)
        return torch.stack([class_scores(c, m) for c, m in zip(logits, masks, strict=True)])

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Set prediction: matched queries learn class and mask, the others to answer nothing."""
        pixels = self.prepare(images)
        bottom, right = (a - b for a, b in zip(pixels.shape[-2:], images.shape[-2:], strict=True))
        output = self.network(
            pixel_values=pixels,
            mask_labels=[F.pad(t.masks, (0, right, 0, bottom)).float() for t in targets],
            class_labels=[t.categories for t in targets],
        )
        # Summed over one mask it comes with a dimension.
        return output.loss.reshape(())

    def find(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        task: str,
        things: frozenset[int] = frozenset(),
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Found]:
        """Segments that do not overlap (panoptic), or the surest instances."""
        del boxes
        found = []
        for logits, masks, frame in zip(*self._queries(images), frames, strict=True):
            masks = frame.resize(masks)
            if task == "panoptic":
                found.append(panoptic(logits, masks, things=things))
            else:
                found.append(instances(logits, masks))
        return found

    def _queries(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, C + 1) of the queries' classes and (B, Q, S, S) of their masks."""
        pixels = self.prepare(images)
        output = self.network(pixel_values=pixels)
        size = (pixels.shape[-2], pixels.shape[-1])
        masks = F.interpolate(
            output.masks_queries_logits.float(), size, mode="bilinear", align_corners=False
        )
        height, width = images.shape[-2:]
        return output.class_queries_logits.float(), masks[..., :height, :width]


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
