"""SAM-HQ (Ke et al., NeurIPS 2023) of transformers as a victim: a box asks, a mask answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.losses import choose_points, mask_losses
from unseg.victims.objects import ObjectVictim
from unseg.victims.segments import Found, Frame, Target, mask_boxes

_MAX_PROMPTS = 8
"""Objects of a picture that one step learns from."""

NEW_PARTS = ("hq_", "compress_vit", "encoder_conv", "encoder_norm", "mask_conv", "mask_norm")
"""Words in the names of what SAM-HQ adds to Segment Anything, and alone trains."""


def build_sam_hq(*, tiny: bool, width: float, image_size: int) -> nn.Module:
    """SAM-HQ on ViT-B with random weights.

    Args:
        tiny: the small version for the CPU.
        width: factor on the channels of the tiny version's parts, and on the depth-wise MLPs of
            the real one's encoder.
        image_size: side of its square input; a multiple of the patch side (16, tiny 8).
    """
    from transformers import SamHQConfig, SamHQModel

    patch = 8 if tiny else 16
    side = max(patch, image_size // patch * patch)
    vision: dict[str, Any] = {"image_size": side, "patch_size": patch}
    prompts: dict[str, Any] = {"image_size": side, "patch_size": patch}
    decoder: dict[str, Any] = {}
    if tiny:
        hidden = max(1, round(32 * width / 16)) * 16
        vision |= {
            "hidden_size": hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "output_channels": hidden,
            "global_attn_indexes": [0, 1],
            "window_size": 4,
            "num_pos_feats": hidden // 2,
        }
        prompts["hidden_size"] = hidden
        decoder = {
            "hidden_size": hidden,
            "mlp_dim": 2 * hidden,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": hidden,
            "vit_dim": hidden,
        }
    else:
        vision["mlp_ratio"] = 4.0 * width
    # The library starts the encoder at almost exactly zero, for weights that are then loaded.
    vision["initializer_range"] = 0.02
    config = SamHQConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    return SamHQModel(config)


class SamHQ(ObjectVictim):
    """The mask of the high-quality token answers; Segment Anything's own three are not used."""

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """BCE and Dice on sampled points of the masks that the true boxes ask for."""
        chosen = []
        for target in targets:
            order = torch.randperm(len(target.masks))[:_MAX_PROMPTS].to(target.masks.device)
            chosen.append((target.masks[order], target.boxes[order]))
        answers = self._answer(images, [boxes for _, boxes in chosen])
        logits, truth = torch.cat(answers), torch.cat([masks for masks, _ in chosen])
        if not len(logits):
            return sum(p.sum() for p in self.parameters() if p.requires_grad) * images.new_zeros(())
        logits, wanted = logits[:, None].float(), truth[:, None].float()
        points = choose_points(logits, num_points=min(12_544, wanted[0].numel()))
        return mask_losses(logits, wanted, points).total().mean()

    def find(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        task: str,
        things: frozenset[int] = frozenset(),
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Found]:
        """One mask for each box, in order."""
        del task, things
        if boxes is None:
            raise ValueError("SAM-HQ answers prompts; give the boxes of each picture")
        side = (images.shape[-2], images.shape[-1])
        found = []
        for logits, frame in zip(self._answer(images, boxes), frames, strict=True):
            at_frame = F.interpolate(
                logits[None].float(), side, mode="bilinear", align_corners=False
            )[0]
            masks = frame.resize(at_frame) > 0
            scores = torch.ones(len(masks), device=masks.device)
            found.append(Found(scores.long() * 0, scores, mask_boxes(masks), masks))
        return found

    def _answer(self, images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Logits (K, h, w) of the mask for each box (K, 4), of every picture."""
        network: Any = self.network
        side = network.config.vision_config.image_size
        height, width = images.shape[-2:]
        pixels = (images - self.mean) / self.std
        if (height, width) != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
        # The model takes as many boxes for each picture: the places of missing ones are filled.
        prompts = pixels.new_zeros(len(boxes), max(1, *map(len, boxes)), 4)
        scale = pixels.new_tensor([side / width, side / height] * 2)
        inclusive = pixels.new_tensor([0, 0, 1, 1])
        for row, own in zip(prompts, boxes, strict=True):
            row[: len(own)] = own * scale - inclusive
        output = network(
            pixel_values=pixels, input_boxes=prompts, multimask_output=False, hq_token_only=True
        )
        return [m[: len(own), 0] for m, own in zip(output.pred_masks, boxes, strict=True)]
