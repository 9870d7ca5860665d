"""The surrogate segmenter that learns beside the generator.

See the paper's section 3.3 and docs/METHOD.md, "3. Surrogate".
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from unseg.models.encoder import BatchPromptEncoder, EncoderOutput, ImageEncoder, ImageNetNormalise
from unseg.models.generator import Player
from unseg.models.noise_decoder import SingleMaskDecoder
from unseg.models.sam_modules.common import LayerNorm2d
from unseg.types import Prompts


class Surrogate(Player):
    """Segment Anything at half the generator's size, all of it trainable.

    Args:
        image_encoder: a ViT, or a convolutional network.
        prompt_encoder: encoder of prompts in the frame of the images.
        mask_decoder: decoder of one mask.
        size: name of the model size, for `build_arguments`.
        normalise: what images go through first; None is ImageNet's statistics.

    Attributes:
        image_size: side s of the input in pixels.
        patch_size: image pixels per token.
        grid: tokens per side, g.
        logit_size: side of the logits and of mask prompts, 4g.
    """

    image_encoder: ImageEncoder | ConvolutionalEncoder
    mask_decoder: SingleMaskDecoder

    def __init__(
        self,
        *,
        image_encoder: ImageEncoder | ConvolutionalEncoder,
        prompt_encoder: BatchPromptEncoder,
        mask_decoder: SingleMaskDecoder,
        size: str,
        normalise: ImageNetNormalise | None = None,
    ) -> None:
        super().__init__(
            image_encoder=image_encoder,
            prompt_encoder=prompt_encoder,
            mask_decoder=mask_decoder,
            size=size,
        )
        if normalise is not None:
            self.normalise = normalise
        self.logit_size = 4 * self.grid

    @property
    def build_arguments(self) -> dict[str, Any]:
        """Keyword arguments with which `build_surrogate` makes this model again."""
        layout = {"sam_layout": True} if self.mask_decoder.sam_layout else {}
        return {"size": self.size, "image_size": self.image_size, **layout}

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Mask logits (B, 1, 4g, 4g) on a grid that spans the input square.

        Args:
            image: (B, 3, s, s) float in [0, 1], black where padded.
            prompts: in pixels of that square; kinds may differ between images.

        Raises:
            ValueError: image or mask prompts have another size than this model's, or the prompts
                are for another number of images.
        """
        self.check_inputs(image, prompts)
        encoded = self.image_encoder(self.normalise(image))
        return self.mask_decoder(
            encoded.embedding,
            self.prompt_encoder.get_dense_pe(),
            self.prompt_encoder(prompts, len(image)),
        )


class ConvolutionalEncoder(nn.Module):
    """Features of a network of timm, brought to the shape of Segment Anything's embedding.

    The last two stages (strides 16 and 32) are projected, summed at stride 16 and normalised: the
    ViT's neck with one more lateral input. Batch normalisation keeps statistics in training mode,
    so an idle player must be in evaluation mode.

    Args:
        backbone: name of the network in timm, one with five stages.
        out_dim: channels of the embedding.
    """

    def __init__(self, backbone: str, *, out_dim: int) -> None:
        super().__init__()
        # timm takes seconds to import, and only such surrogates build one of its models.
        import timm

        self.backbone = timm.create_model(
            backbone, pretrained=False, features_only=True, out_indices=(3, 4)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, out_dim, kernel_size=1, bias=False)
            for channels in self.backbone.feature_info.channels()
        )
        self.neck = nn.Sequential(
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def forward(self, x: Tensor) -> EncoderOutput:
        """Embedding (B, out_dim, s / 16, s / 16) of normalised images (B, 3, s, s)."""
        fine, coarse = (
            lateral(features)
            for lateral, features in zip(self.lateral, self.backbone(x), strict=True)
        )
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return EncoderOutput(self.neck(fine + coarse), None)
