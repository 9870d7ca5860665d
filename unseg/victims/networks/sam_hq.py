"""SAM-HQ (Ke et al., NeurIPS 2023) of transformers as a victim: a box asks, a mask answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.losses import choose_points, mask_losses
from unseg.victims.data.segments import Found, Frame, Target, mask_boxes
from unseg.victims.networks.sam_hq_names import is_official, renamed
from unseg.victims.networks.victim import NetworkOptions, ObjectVictim

_MAX_PROMPTS = 8
"""Objects of a picture that one step learns from."""

NEW_PARTS = ("hq_", "compress_vit", "encoder_conv", "encoder_norm", "mask_conv", "mask_norm")
"""Words in the names of what SAM-HQ adds to Segment Anything, and alone trains."""


def build_sam_hq(options: NetworkOptions) -> nn.Module:
    """SAM-HQ on ViT-B with random weights.

    Width scales the channels of the tiny version's parts, and the depth-wise MLPs of the real one's
    encoder. The side of its square input is a multiple of the patch side (16, tiny 8).
    """
    from transformers import SamHQConfig, SamHQModel

    patch = 8 if options.tiny else 16
    side = max(patch, options.image_size // patch * patch)
    vision: dict[str, Any] = {"image_size": side, "patch_size": patch}
    prompts: dict[str, Any] = {"image_size": side, "patch_size": patch}
    decoder: dict[str, Any] = {}
    if options.tiny:
        hidden = max(1, round(32 * options.width / 16)) * 16
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
        vision["mlp_ratio"] = 4.0 * options.width
    # The library starts the encoder at almost exactly zero, for weights that are then loaded.
    vision["initializer_range"] = 0.02
    config = SamHQConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    return SamHQModel(config)


def _is_new(name: str) -> bool:
    return any(part in name for part in NEW_PARTS)


class SamHQ(ObjectVictim):
    """The mask of the high-quality token answers; Segment Anything's own three are not used."""

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official files of SAM-HQ, or of Segment Anything; of this the new parts stay fresh."""
        if not is_official(state):
            return state
        found = renamed(state)
        fresh = {k: v for k, v in self.network.state_dict().items() if _is_new(k)}
        return found if any(map(_is_new, found)) else {**found, **fresh}

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
        config: Any = self.network.config
        side = config.vision_config.image_size
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
        return [m[: len(own)] for m, own in zip(self._masks(pixels, prompts), boxes, strict=True)]

    def _masks(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """Logits (B, K, h, w) of the high-quality token's mask, for boxes (B, K, 4).

        Joins the library's parts as the paper does: its own decoder (transformers 5.23) takes the
        picture as it was before the transformer, with rows and columns exchanged.
        """
        network: Any = self.network
        decoder = network.mask_decoder
        encoded = network.vision_encoder(pixels)
        picture, early = encoded.last_hidden_state, encoded.intermediate_embeddings[0]
        features = _refined(decoder, "encoder", picture)
        features = features + _refined(decoder, "compress_vit", early.permute(0, 3, 1, 2))

        sparse, dense = network.prompt_encoder(
            input_points=None, input_labels=None, input_boxes=boxes, input_masks=None
        )
        batch, count = sparse.shape[:2]
        own = (decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hq_token.weight)
        tokens = torch.cat([torch.cat(own).expand(batch, count, -1, -1), sparse], dim=2)
        answers, seen = decoder.transformer(
            point_embeddings=tokens.flatten(0, 1)[:, None],
            image_embeddings=(picture + dense).repeat_interleave(count, 0),
            image_positional_embeddings=network.get_image_wide_positional_embeddings(),
            attention_similarity=None,
        )
        seen = seen[:, 0].transpose(1, 2).unflatten(2, picture.shape[-2:])
        fine = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(seen)))
        fine = decoder.activation(decoder.upscale_conv2(fine))
        fine = _refined(decoder, "mask", fine) + features.repeat_interleave(count, 0)
        kernels = decoder.hq_mask_mlp(answers[:, 0, len(torch.cat(own)) - 1])
        return torch.einsum("nc,nchw->nhw", kernels, fine).unflatten(0, (batch, count))


def _refined(decoder: Any, branch: str, features: Tensor) -> Tensor:
    """Features (B, C', h, w) of one of the branches that SAM-HQ adds, named by its layers."""
    first, norm, last = (
        getattr(decoder, f"{branch}_{part}") for part in ("conv1", "norm", "conv2")
    )
    return last(decoder.activation(norm(first(features))))
