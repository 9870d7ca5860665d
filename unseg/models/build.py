"""Model sizes, and the two functions that build the players. Nothing here reads a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch.overrides import TorchFunctionMode

from unseg.models.encoder import BatchPromptEncoder, ImageEncoder, ImageNetNormalise
from unseg.models.generator import Generator
from unseg.models.noise_decoder import NoiseDecoder, NoiseReadout, SingleMaskDecoder
from unseg.models.surrogate import ConvolutionalEncoder, Surrogate
from unseg.noise import Carrier
from unseg.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SizeSpec:
    """Dimensions of a model size; the defaults are Segment Anything's.

    Attributes:
        embed_dim: width of the encoder's tokens.
        depth: encoder blocks.
        num_heads: attention heads of an encoder block.
        global_attn_indexes: blocks with global attention; the others use windows.
        window_size: side of a window in tokens.
        patch_size: side of a patch in pixels.
        image_size: the generator's usual input side; the surrogate's is half of it.
        decoder_dim: width of embedding, prompts and decoder.
        decoder_heads: attention heads of the decoder.
        decoder_mlp_dim: hidden width of the decoder's token MLPs.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    patch_size: int = 16
    image_size: int = 1024
    decoder_dim: int = 256
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048


SIZES: dict[str, SizeSpec] = {
    # The window does not divide the grid of 16, so that even the smallest model pads its windows.
    "tiny": SizeSpec(
        embed_dim=96,
        depth=3,
        num_heads=3,
        global_attn_indexes=(1, 2),
        window_size=7,
        patch_size=8,
        image_size=128,
        decoder_dim=64,
        decoder_heads=4,
        decoder_mlp_dim=512,
    ),
    "small": SizeSpec(
        embed_dim=384,
        depth=6,
        num_heads=6,
        global_attn_indexes=(2, 5),
        window_size=8,
        image_size=512,
        decoder_dim=128,
        decoder_mlp_dim=1024,
    ),
    "vit_b": SizeSpec(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    "vit_l": SizeSpec(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    "vit_h": SizeSpec(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}

NOISE_CENTRED = (0, 2, 4)
"""Sides of squares that noise can be without a mean in: a token has 4 cells a side."""

_MAX_SIDE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ConvolutionalSpec:
    """A surrogate with a convolutional encoder.

    Attributes:
        backbone: its encoder in timm.
        like: the size whose prompt encoder and decoder it has.
        statistics: (mean, std) of its pictures, the same for each colour; None is ImageNet's.
    """

    backbone: str
    like: str
    statistics: tuple[float, float] | None = None

    def normalise(self) -> ImageNetNormalise:
        """What its pictures go through first."""
        if self.statistics is None:
            return ImageNetNormalise()
        mean, std = self.statistics
        return ImageNetNormalise((mean, mean, mean), (std, std, std))


CONVOLUTIONAL: dict[str, ConvolutionalSpec] = {
    # The paper's ablation.
    "resnet50": ConvolutionalSpec(backbone="resnet50", like="vit_b"),
    # DEVIATION: not in the paper. A pre-trained surrogate that a CPU can train.
    "efficientnet_lite0": ConvolutionalSpec(
        backbone="tf_efficientnet_lite0", like="small", statistics=(0.5, 0.5)
    ),
}
"""Surrogates without a ViT, by the name of their size."""


def build_generator(
    size: str = "vit_b",
    image_size: int | None = None,
    noise_readout: NoiseReadout = "noise_tokens",
    *,
    noise_carrier: str = "rgb",
    noise_centred: int = 0,
    train_encoder: bool = False,
) -> Generator:
    """Randomly initialised generator, drawn from torch's global generator.

    Args:
        size: a key of `SIZES`.
        image_size: side of the square input, a multiple of the patch; None is the size's own
            (1024 for `vit_b`).
        noise_readout: `noise_tokens`, or `official` for the released weights.
        noise_carrier: colours and scales of the noise, as text; see `unseg.noise.Carrier.parse`.
        noise_centred: side in cells of the squares of noise without a mean, 2 or 4; 0: none.
        train_encoder: train the image encoder as well as the noise branches.

    Raises:
        UserError: there is no such size or option, or the image size does not suit the patch.
    """
    spec = _spec(size, SIZES)
    image_size = _checked_image_size(size, image_size, spec.image_size, spec.patch_size)
    if noise_readout not in get_args(NoiseReadout):
        known = ", ".join(get_args(NoiseReadout))
        raise UserError(f"noise_readout={noise_readout!r}: choose from {known}")
    noise_size = 4 * image_size // spec.patch_size
    try:
        carrier = Carrier.parse(noise_carrier)
    except (ValueError, TypeError) as error:
        raise UserError(f"noise_carrier={noise_carrier!r}: {error}") from None
    if any(noise_size % band.cells for band in carrier.bands):
        raise UserError(
            f"noise_carrier={noise_carrier!r}: cells must divide the noise grid of {noise_size}"
        )
    if noise_centred not in NOISE_CENTRED:
        raise UserError(f"noise_centred={noise_centred!r}: choose from {NOISE_CENTRED}")
    return Generator(
        image_encoder=_image_encoder(spec, image_size),
        prompt_encoder=_prompt_encoder(spec, image_size),
        mask_decoder=NoiseDecoder(
            dim=spec.decoder_dim,
            num_heads=spec.decoder_heads,
            mlp_dim=spec.decoder_mlp_dim,
            vit_dim=spec.embed_dim,
        ),
        size=size,
        noise_readout=noise_readout,
        noise_carrier=carrier,
        noise_centred=noise_centred,
        train_encoder=train_encoder,
    )


def generator_like(arguments: Mapping[str, Any]) -> Generator:
    """The generator that the `build_arguments` of a file describe, with random weights.

    Files from before carriers had names call the carrier `noise_channels`.

    Raises:
        UserError, TypeError: the arguments are not those of `build_generator`.
    """
    renamed = {"noise_carrier" if k == "noise_channels" else k: v for k, v in arguments.items()}
    return build_generator(**renamed)


def outline_like(arguments: Mapping[str, Any]) -> Generator:
    """The same generator on the meta device: names and shapes that take no memory.

    With it a file is judged before the model it asks for is built.

    Raises:
        UserError, TypeError: as `generator_like`.
    """
    side = arguments.get("image_size")
    if isinstance(side, int) and side > _MAX_SIDE:
        raise UserError(f"image_size={side:.3g}: larger than any model's")
    with torch.device("meta"), _WithoutValues():
        return generator_like(arguments)


class _WithoutValues(TorchFunctionMode):
    """What fills and scales fresh tensors does nothing, for the meta device has no values.

    There torch computes shapes by Python decompositions, which import its compiler: over a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            func = torch.empty
        if getattr(func, "__name__", "") in ("normal_", "mul"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def build_surrogate(
    size: str = "vit_b", image_size: int | None = None, *, sam_layout: bool = False
) -> Surrogate:
    """Randomly initialised surrogate, drawn from torch's global generator.

    Args:
        size: a key of `SIZES` or of `CONVOLUTIONAL`.
        image_size: side of the square input, a multiple of the patch; None is half of the
            generator's (512 for `vit_b`).
        sam_layout: have exactly the tensors of a generator's frozen part; see
            `SingleMaskDecoder`.

    Raises:
        UserError: there is no such size, or the image size does not suit the patch.
    """
    spec = _spec(size, {**SIZES, **{k: SIZES[v.like] for k, v in CONVOLUTIONAL.items()}})
    image_size = _checked_image_size(size, image_size, spec.image_size // 2, spec.patch_size)
    convolutional = CONVOLUTIONAL.get(size)
    return Surrogate(
        image_encoder=(
            _image_encoder(spec, image_size)
            if convolutional is None
            else ConvolutionalEncoder(convolutional.backbone, out_dim=spec.decoder_dim)
        ),
        prompt_encoder=_prompt_encoder(spec, image_size),
        mask_decoder=SingleMaskDecoder(
            dim=spec.decoder_dim,
            num_heads=spec.decoder_heads,
            mlp_dim=spec.decoder_mlp_dim,
            sam_layout=sam_layout,
        ),
        size=size,
        normalise=None if convolutional is None else convolutional.normalise(),
    )


def _spec(size: str, choices: dict[str, SizeSpec]) -> SizeSpec:
    if size not in choices:
        raise UserError(f"model size {size!r}: choose from {', '.join(choices)}")
    return choices[size]


def _checked_image_size(size: str, image_size: int | None, default: int, patch: int) -> int:
    """The image size asked for, or the default; refused unless it is a multiple of the patch."""
    if image_size is None:
        return default
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise UserError(f"image_size={image_size!r}: must be a whole number of pixels")
    if image_size < patch or image_size % patch:
        nearest = max(1, (image_size + patch // 2) // patch) * patch
        raise UserError(
            f"image_size={image_size}: {size} cuts images into patches of {patch} x {patch}, "
            f"so the side must be a multiple of {patch}; use {nearest}"
        )
    return image_size


def _image_encoder(spec: SizeSpec, image_size: int) -> ImageEncoder:
    return ImageEncoder(
        image_size=image_size,
        patch_size=spec.patch_size,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        window_size=spec.window_size,
        global_attn_indexes=spec.global_attn_indexes,
        out_dim=spec.decoder_dim,
    )


def _prompt_encoder(spec: SizeSpec, image_size: int) -> BatchPromptEncoder:
    grid = image_size // spec.patch_size
    return BatchPromptEncoder(
        embed_dim=spec.decoder_dim,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
