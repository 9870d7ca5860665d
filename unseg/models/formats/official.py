"""The layout of the released `Generator_unseg_final.pth`: a bare state dict, read as `official`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unseg.io.files import atomic_write
from unseg.models.build import SIZES, build_generator
from unseg.models.formats.transfer import encoder_shape, transfer
from unseg.models.generator import Generator
from unseg.utils.errors import UserError

_MASK_TOKENS = "mask_decoder.mask_tokens.weight"
_NOISE_TOKENS = "mask_decoder.noise_token.weight"


def generator_from_official(state: Mapping[str, Tensor], source: str | Path) -> Generator:
    """The generator of a released state dict; size and image size follow from the shapes.

    Args:
        state: every tensor of the generator.
        source: the file, for messages.

    Raises:
        UserError: it is no generator, of no known size, or its tensors do not fit exactly.
    """
    shape = encoder_shape(state)
    if shape is None or shape.grid is None or _NOISE_TOKENS not in state:
        kind = (
            "holds Segment Anything without noise branches: it fills a generator's frozen part "
            "(load_sam) and is no generator itself"
            if shape is not None and _MASK_TOKENS in state
            else "holds no generator"
        )
        raise UserError(
            f"{source}: {kind}; give a released generator, a training checkpoint or a safetensors "
            "release"
        )
    if shape.size is None:
        raise UserError(
            f"{source}: wrong model size: the file holds an encoder of {shape}; known sizes are "
            f"{', '.join(SIZES)}"
        )
    generator = build_generator(shape.size, shape.grid * shape.patch_size, "official")
    transfer(generator, state, source=source)
    return generator


def official_state(generator: Generator) -> dict[str, Tensor]:
    """Copies of the generator's tensors such that reading them as `official` gives its noise.

    The released program reads the transformer one place early: the last mask token and the first
    two noise tokens. The decoder is equivariant over its tokens, so moving the token vectors to
    the places that are read changes nothing else (docs/METHOD.md, "2. Generator").

    Raises:
        UserError: the generator's carrier is not `rgb` or its noise is centred, which this
            layout cannot say.
    """
    if str(generator.noise_carrier) != "rgb" or generator.noise_centred:
        raise UserError(
            f"noise_carrier={str(generator.noise_carrier)!r} with noise_centred="
            f"{generator.noise_centred} cannot be expressed in the released layout, whose program "
            "always reads three separate colours as they are; export to .safetensors"
        )
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in generator.state_dict().items()
    }
    if generator.noise_readout == "noise_tokens":
        mask_tokens, noise_tokens = state[_MASK_TOKENS], state[_NOISE_TOKENS]
        in_order = torch.cat([mask_tokens[:-1], noise_tokens, mask_tokens[-1:]])
        state[_MASK_TOKENS] = in_order[: len(mask_tokens)].clone()
        state[_NOISE_TOKENS] = in_order[len(mask_tokens) :].clone()
    return state


def export_official(generator: Generator, path: str | Path) -> None:
    """Write the generator in the released layout.

    Args:
        generator: any `rgb` generator.
        path: file to write, for example `weight_dir/Generator_mine_final.pth`.

    Raises:
        UserError: the layout cannot express the generator, or the file cannot be written.
    """
    state = official_state(generator)
    with atomic_write(path) as file:
        torch.save(state, file)
