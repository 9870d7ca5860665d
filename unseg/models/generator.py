"""The promptable noise generator (paper, section 3.2; docs/METHOD.md, "2. Generator")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unseg.models.encoder import BatchPromptEncoder, EncoderOutput, ImageEncoder, ImageNetNormalise
from unseg.models.noise_decoder import NoiseDecoder, NoiseReadout
from unseg.noise import Carrier, without_means
from unseg.types import Prompts


class Player(nn.Module):
    """What generator and surrogate are both made of: Segment Anything's three parts.

    Args:
        image_encoder: encoder of square images.
        prompt_encoder: encoder of prompts in the frame of the images.
        mask_decoder: what makes the output of both.
        size: name of the model size, for `build_arguments`.

    Attributes:
        image_size: side of the input in pixels.
        patch_size: image pixels per token.
        grid: tokens per side, g.
    """

    def __init__(
        self,
        *,
        image_encoder: nn.Module,
        prompt_encoder: BatchPromptEncoder,
        mask_decoder: nn.Module,
        size: str,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.normalise = ImageNetNormalise()
        self.size = size
        self.image_size: int = prompt_encoder.input_image_size[0]
        self.grid: int = prompt_encoder.image_embedding_size[0]
        self.patch_size = self.image_size // self.grid

    def check_inputs(self, image: Tensor, prompts: Prompts) -> None:
        """Refuse an image of another size than the model's, and prompts of another batch.

        Raises:
            ValueError: with what was found and what to do.
        """
        side = self.image_size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise ValueError(
                f"image is {tuple(image.shape)}; this model takes (B, 3, {side}, {side}): "
                "pad it to a square at bottom and right, then resize it, or build the model with "
                "another image_size"
            )
        if prompts.batch_size not in (None, len(image)):
            raise ValueError(f"prompts are for {prompts.batch_size} images, not for {len(image)}")


class Generator(Player):
    """Noise that steers a segmenter away from what it should learn of an image.

    A frozen Segment Anything model carries the image and the prompts; the trainable parameters are
    those of the noise branches, whose names contain `noise`. State names are the released ones.

    Args:
        image_encoder: encoder of square images of side `image_size`.
        prompt_encoder: encoder of prompts in the same frame.
        mask_decoder: decoder with noise branches.
        size: name of the model size, for `build_arguments`.
        noise_readout: which transformer outputs become noise; see `NoiseDecoder.forward`.
        noise_carrier: colours and scales of the noise; a band is the mean of the outputs in its
            direction of colour, before tanh.
        noise_centred: side in cells of the squares without a mean, see `unseg.noise.without_means`;
            a divisor of 4g, or 0 for noise as it comes.
        train_encoder: train the image encoder too.

    Attributes:
        image_size: side S of the input in pixels.
        patch_size: side of a patch.
        grid: tokens per side, g.
        noise_size: side of the noise and of mask prompts, 4g.
        encoder_dtype: arithmetic of the frozen encoder where it shall differ from the rest, such as
            `torch.bfloat16` on CPUs with instructions for it; None (default): like the rest. The
            decoder, which makes the noise, keeps float32. No part of `build_arguments`.
    """

    image_encoder: ImageEncoder
    mask_decoder: NoiseDecoder
    encoder_dtype: torch.dtype | None = None

    def __init__(
        self,
        *,
        image_encoder: ImageEncoder,
        prompt_encoder: BatchPromptEncoder,
        mask_decoder: NoiseDecoder,
        size: str,
        noise_readout: NoiseReadout = "noise_tokens",
        noise_carrier: Carrier,
        noise_centred: int = 0,
        train_encoder: bool = False,
    ) -> None:
        super().__init__(
            image_encoder=image_encoder,
            prompt_encoder=prompt_encoder,
            mask_decoder=mask_decoder,
            size=size,
        )
        self.noise_size = 4 * self.grid
        self.noise_readout: NoiseReadout = noise_readout
        self.noise_carrier = noise_carrier
        self.noise_centred = noise_centred
        self.train_encoder = train_encoder
        trainable = self.trainable_parameters()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)
        self.train()

    @property
    def build_arguments(self) -> dict[str, Any]:
        """Keyword arguments with which `build_generator` makes this model again."""
        return {
            "size": self.size,
            "image_size": self.image_size,
            "noise_readout": self.noise_readout,
            "noise_carrier": str(self.noise_carrier),
            "noise_centred": self.noise_centred,
            "train_encoder": self.train_encoder,
        }

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that training changes, by their name in the state dict."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if "noise" in name or (self.train_encoder and name.startswith("image_encoder."))
        }

    def train(self, mode: bool = True) -> Generator:
        """Set the mode of the trainable part; the frozen one always stays in evaluation mode."""
        super().train(mode)
        for module in (self.image_encoder, self.prompt_encoder, self.mask_decoder.transformer):
            module.eval()
        self.image_encoder.train(mode and self.train_encoder)
        return self

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Unit noise (B, 3, 4g, 4g) in [-1, 1] on a grid that spans the input square.

        Args:
            image: (B, 3, S, S) float in [0, 1], black where padded.
            prompts: in pixels of that square; kinds may differ between images.

        Raises:
            ValueError: image or mask prompts have another size than this model's, or the prompts
                are for another number of images.
        """
        self.check_inputs(image, prompts)
        image_grad = torch.is_grad_enabled() and self.train_encoder
        with torch.set_grad_enabled(image_grad):
            encoded = self._encode(self.normalise(image))
        with torch.no_grad():
            encoded_prompts = self.prompt_encoder(prompts, len(image))
            image_pe = self.prompt_encoder.get_dense_pe()
        noise = self.mask_decoder(
            encoded.embedding,
            encoded.early_tokens,
            image_pe,
            encoded_prompts,
            readout=self.noise_readout,
        )
        fields = torch.tanh(self.noise_carrier.fields_of(noise))
        if self.noise_centred:
            fields = without_means(fields, self.noise_centred)
        return self.noise_carrier.noise(fields)

    def _encode(self, image: Tensor) -> EncoderOutput:
        if self.encoder_dtype is None:
            return self.image_encoder(image)
        with torch.autocast(image.device.type, self.encoder_dtype):
            encoded = self.image_encoder(image)
        return EncoderOutput(*(tensor.float() for tensor in encoded))
