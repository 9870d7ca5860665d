"""Segment Anything's weights, Meta's or ours: the generator's frozen part, or a surrogate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unseg.io.files import atomic_write
from unseg.io.weight_files.read import read_weight_file, state_dict_of
from unseg.models.encoder import ImageEncoder
from unseg.models.formats.transfer import LoadReport, transfer
from unseg.models.generator import Generator
from unseg.models.surrogate import Surrogate
from unseg.utils.errors import UserError

DECODER = "mask_decoder."

PART_FILES = {
    "image_encoder": "sam_vit_b_backbone.pth",
    "prompt_encoder": "sam_vit_b_prompt_decoder.pth",
    "mask_decoder": "sam_vit_b_maskdecoder.pth",
}
"""Names under which the released training code keeps the parts of ViT-B."""


def load_sam(generator: Generator, path: str | Path) -> LoadReport:
    """Fill the frozen part from Meta's file, or from a folder with the three part files.

    Every tensor of the generator that the file lacks must belong to the noise branches, and the
    file may hold nothing else. A generator with another grid than the file's gets its positions
    resampled: the report says so.

    Args:
        generator: of the file's model size, any image size.
        path: `sam_vit_{b,l,h}_*.pth`, or the folder of `PART_FILES`.

    Raises:
        UserError: the file is unsafe, damaged or does not fit.
    """
    path = Path(path)
    if path.is_dir():
        parts = {part: path / name for part, name in PART_FILES.items()}
        return load_sam_parts(generator, **parts)
    return _load(generator, state_dict_of(read_weight_file(path)), path)


def save_sam(segmenter: Surrogate, path: str | Path) -> None:
    """Write a segmenter in the layout of Meta's files, which `load_sam` takes.

    Args:
        segmenter: built with `sam_layout`.
        path: file to write.
    """
    assert segmenter.mask_decoder.sam_layout
    state = {name: value.detach().cpu().clone() for name, value in segmenter.state_dict().items()}
    with atomic_write(path) as file:
        torch.save(state, file)


def fill_surrogate(
    surrogate: Surrogate, state: Mapping[str, Tensor], source: str | Path
) -> LoadReport:
    """Fill a surrogate from a whole segmenter, all that it has a place for.

    Its own decoder has three mask tokens and predicts no IoU; the file's fourth token and IoU head
    are left out.

    Args:
        surrogate: of the file's model size, any image size.
        state: every tensor of the file, by Segment Anything's names.
        source: the file, for messages and the report.

    Raises:
        UserError: the file does not fit.
    """
    if not isinstance(surrogate.image_encoder, ImageEncoder):
        raise UserError(
            f"{source}: holds a segmenter with a ViT and this surrogate is {surrogate.size!r}; "
            "choose a vit size for the surrogate"
        )
    own = surrogate.state_dict()
    tokens = DECODER + "mask_tokens.weight"
    last = f"{DECODER}output_hypernetworks_mlps.3."
    unused = [
        name for name in state if name not in own and name.startswith((f"{DECODER}iou_", last))
    ]
    taken = {name: value for name, value in state.items() if name not in unused}
    if tokens in taken:
        taken[tokens] = taken[tokens][: len(own[tokens])]
    return transfer(surrogate, taken, source=source, resample=True, unused=unused)


def load_sam_parts(
    generator: Generator,
    *,
    image_encoder: str | Path,
    prompt_encoder: str | Path,
    mask_decoder: str | Path,
) -> LoadReport:
    """Fill the frozen part from three files, one for each part of Segment Anything.

    Args:
        generator: of the files' model size, any image size.
        image_encoder: its tensors, named with or without `image_encoder.`; likewise the others.
        prompt_encoder: see above.
        mask_decoder: see above.

    Raises:
        UserError: a file is unsafe, damaged or does not fit.
    """
    paths = {
        "image_encoder": Path(image_encoder),
        "prompt_encoder": Path(prompt_encoder),
        "mask_decoder": Path(mask_decoder),
    }
    state: dict[str, Tensor] = {}
    for part, path in paths.items():
        state |= _part_tensors(part, path)
    return _load(generator, state, ", ".join(map(str, paths.values())))


def _load(generator: Generator, state: Mapping[str, Tensor], source: str | Path) -> LoadReport:
    noise = [name for name in state if "noise" in name]
    if noise:
        raise UserError(
            f"{source}: holds noise branches ({noise[0]}, ...), so it is a generator and not "
            "Segment Anything; load it with load_generator"
        )
    return transfer(
        generator,
        state,
        source=source,
        may_stay_fresh=lambda name: "noise" in name,
        resample=True,
    )


def _part_tensors(part: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a part file under the names of the whole model."""
    prefix = f"{part}."
    state = state_dict_of(read_weight_file(path))
    others = tuple(f"{name}." for name in PART_FILES if name != part)
    strange = next((name for name in state if name.startswith(others)), None)
    if strange:
        raise UserError(
            f"{path}: holds {strange}, which is no part of the {part}; check the order of the "
            "files, or give a whole Segment Anything file to load_sam"
        )
    return {prefix + name.removeprefix(prefix): value for name, value in state.items()}
