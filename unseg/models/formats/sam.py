"""Segment Anything's weights for the generator's frozen part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unseg.io.tensors import read_weight_file, state_dict_of
from unseg.models.formats.transfer import LoadReport, transfer
from unseg.models.generator import Generator
from unseg.utils.errors import UserError

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
