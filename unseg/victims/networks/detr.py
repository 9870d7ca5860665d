"""Detectors of transformers as victims: Deformable-DETR in two stages, and RT-DETRv2.

They stand in for DINO, of which no package exists, and are reported under their own names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unseg.victims.data.segments import Found, Frame, Target
from unseg.victims.networks.victim import NetworkOptions, ObjectVictim

_LIMIT = 100


def build_deformable_detr(options: NetworkOptions) -> nn.Module:
    """Deformable-DETR with box refinement in two stages (Zhu et al., ICLR 2021), on ResNet-50.

    Width scales the channels of encoder and decoder; a pretrained backbone comes from timm.
    """
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    hidden = max(1, round((32 if options.tiny else 256) * options.width / 32)) * 32
    arguments: dict[str, Any] = {
        "num_labels": options.num_classes,
        "d_model": hidden,
        "two_stage": True,
        "with_box_refine": True,
        "auxiliary_loss": True,
        "disable_custom_kernels": True,  # they are downloaded when first used
    }
    if options.tiny:
        arguments |= {
            "backbone_config": ResNetConfig(**_tiny_stages(), out_features=_STAGES),
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_ffn_dim": 2 * hidden,
            "decoder_ffn_dim": 2 * hidden,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "num_queries": 12,
            "two_stage_num_proposals": 12,
            "dropout": 0.0,
        }
    else:
        arguments["backbone_config"] = {
            "model_type": "timm_backbone",
            "backbone": "resnet50",
            "num_channels": 3,
            "features_only": True,
            "use_pretrained_backbone": options.pretrained,
            "out_indices": [2, 3, 4],
        }
    return DeformableDetrForObjectDetection(DeformableDetrConfig(**arguments))


def build_rtdetr(options: NetworkOptions) -> nn.Module:
    """RT-DETRv2 (Lv et al., 2024) on its ResNet-50; width scales encoder and decoder."""
    from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

    hidden = max(1, round((32 if options.tiny else 256) * options.width / 32)) * 32
    arguments: dict[str, Any] = {
        "num_labels": options.num_classes,
        "d_model": hidden,
        "encoder_hidden_dim": hidden,
        "decoder_in_channels": [hidden] * 3,
        "freeze_backbone_batch_norms": False,
    }
    if options.tiny:
        arguments |= {
            "backbone_config": RTDetrResNetConfig(**_tiny_stages(), out_indices=[2, 3, 4]),
            "encoder_in_channels": [16, 24, 32],
            "encoder_ffn_dim": 2 * hidden,
            "decoder_ffn_dim": 2 * hidden,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "decoder_layers": 2,
            "num_queries": 12,
            "num_denoising": 8,
        }
    return RTDetrV2ForObjectDetection(RTDetrV2Config(**arguments))


_STAGES = ["stage2", "stage3", "stage4"]


def _tiny_stages() -> dict[str, Any]:
    return {
        "embedding_size": 16,
        "hidden_sizes": [16, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    }


class Detr(ObjectVictim):
    """Queries, each with a box and a score for each class; the library's loss."""

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Set prediction of boxes."""
        pixels = self.prepare(images)
        height, width = pixels.shape[-2:]
        labels = []
        for target in targets:
            corner, end = target.boxes.split(2, dim=1)
            boxes = torch.cat([(corner + end) / 2, end - corner], 1)
            size = boxes.new_tensor([width, height] * 2)
            labels.append({"class_labels": target.categories, "boxes": boxes / size})
        return self.network(pixel_values=pixels, labels=labels).loss

    def find(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        task: str,
        things: frozenset[int] = frozenset(),
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Found]:
        """The surest pairs of a query and a class."""
        del task, things, boxes
        pixels = self.prepare(images)
        output = self.network(pixel_values=pixels)
        height, width = pixels.shape[-2:]
        found = []
        for logits, relative, frame in zip(
            output.logits.float(), output.pred_boxes.float(), frames, strict=True
        ):
            num_classes = logits.shape[1]
            scores, pairs = logits.sigmoid().flatten().topk(min(_LIMIT, logits.numel()))
            centre, size = relative[pairs // num_classes].split(2, dim=1)
            corners = torch.cat([centre - size / 2, centre + size / 2], 1)
            corners = corners * corners.new_tensor([width, height] * 2)
            found.append(Found(pairs % num_classes, scores, frame.scale_boxes(corners)))
        return found
