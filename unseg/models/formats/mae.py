"""Masked-autoencoder weights for the surrogate's encoder (docs/METHOD.md, "3. Surrogate").

Three layouts are read: Meta's `mae_pretrain_vit_*.pth` (timm's names, a class token, perhaps under
`model`), files already in Segment Anything's names (`modified_mae_pretrain_vit_base.pth`), and the
file of `unseg pretrain-mae` (`format: unseg-mae`, tensors under `encoder`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from unseg.io.files import atomic_write
from unseg.io.weight_files.read import WeightFile, read_weight_file, state_dict_of, tensors_of
from unseg.models.encoder import ImageEncoder, resample_pos_embed
from unseg.models.formats.transfer import ENCODER, LoadReport, transfer
from unseg.models.surrogate import Surrogate
from unseg.utils.errors import UserError

MAE_FORMAT = "unseg-mae"

_CLASSIFIER_AND_DECODER = ("cls_token", "mask_token", "norm.", "fc_norm.", "head.", "decoder_")
"""What an autoencoder or classifier has beside the blocks; the surrogate has no place for it."""


class EncoderTensors(NamedTuple):
    """An encoder read from a file.

    Attributes:
        state: tensors by Segment Anything's names, without `image_encoder.`; positions are
            (1, h, w, C), without a class token.
        unused: names in the file that were left out.
    """

    state: dict[str, Tensor]
    unused: tuple[str, ...]


def load_mae(surrogate: Surrogate, path: str | Path) -> LoadReport:
    """Fill the surrogate's ViT encoder from pre-training; the rest keeps its fresh values.

    Relative positions and the neck may be absent from the file, as may both decoders; patch
    embedding, positions and blocks may not. Positions of another grid are resampled.

    Args:
        surrogate: with a ViT encoder of the file's model size, any image size.
        path: see the module.

    Raises:
        UserError: the file is unsafe, damaged or does not fit.
    """
    if not isinstance(surrogate.image_encoder, ImageEncoder):
        raise UserError(
            f"{path}: MAE weights are for a ViT encoder and this surrogate is {surrogate.size!r}; "
            "leave them out, or choose a vit size for the surrogate"
        )
    state, unused = read_mae(path)
    return transfer(
        surrogate,
        {ENCODER + name: value for name, value in state.items()},
        source=path,
        may_stay_fresh=_may_stay_fresh,
        resample=True,
        unused=unused,
    )


def read_mae(path: str | Path) -> EncoderTensors:
    """The encoder of a pre-training file in Segment Anything's names.

    Raises:
        UserError: the file is unsafe or damaged, or its positions are not those of a square grid.
    """
    file = read_weight_file(path)
    state: dict[str, Tensor] = {}
    unused = []
    for name, value in _tensors(file).items():
        bare = name.removeprefix(ENCODER)
        if bare.startswith(_CLASSIFIER_AND_DECODER):
            unused.append(name)
        else:
            state[_sam_name(bare)] = value
    if "pos_embed" in state:
        state["pos_embed"] = _square_positions(state["pos_embed"], file.path)
    return EncoderTensors(state, tuple(unused))


def save_mae(
    encoder: Mapping[str, Tensor], path: str | Path, *, image_size: int | None = None
) -> None:
    """Write an encoder in the layout of `unseg pretrain-mae`.

    Args:
        encoder: tensors by Segment Anything's names, without `image_encoder.`.
        path: file to write.
        image_size: resample the positions for images of this side; None keeps their grid.
    """
    state = {name: value.detach().cpu() for name, value in encoder.items()}
    if image_size is not None:
        grid = image_size // state["patch_embed.proj.weight"].shape[-1]
        state["pos_embed"] = resample_pos_embed(state["pos_embed"], grid)
    # A clone drops what else its storage holds, so that a slice stays small on the disk.
    layout = torch.contiguous_format
    state = {name: value.clone(memory_format=layout) for name, value in state.items()}
    with atomic_write(path) as target:
        torch.save({"format": MAE_FORMAT, "encoder": state}, target)


def _tensors(file: WeightFile) -> dict[str, Tensor]:
    if file.content.get("format") == MAE_FORMAT:
        return tensors_of(file.content.get("encoder"), file.path)
    return state_dict_of(file)


def _sam_name(name: str) -> str:
    return name.replace(".mlp.fc1.", ".mlp.lin1.").replace(".mlp.fc2.", ".mlp.lin2.")


def _square_positions(positions: Tensor, path: Path) -> Tensor:
    """(1, h, w, C) from that, or from (1, N, C) in raster order with or without a class token."""
    if positions.ndim == 4:
        return positions
    if positions.ndim == 3:
        for tokens in (positions, positions[:, 1:]):
            side = math.isqrt(tokens.shape[1])
            if side > 0 and side * side == tokens.shape[1]:
                return tokens.unflatten(1, (side, side))
    raise UserError(
        f"{path}: pos_embed is {tuple(positions.shape)}, which is no square grid with or without "
        "a class token; give weights trained on square images"
    )


def _may_stay_fresh(name: str) -> bool:
    """Whether the surrogate may start with this tensor as it was drawn."""
    return not name.startswith(ENCODER) or ".rel_pos_" in name or name.startswith(ENCODER + "neck.")
