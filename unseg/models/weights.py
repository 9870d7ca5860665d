"""Generators from files: which kind a file is, and where named weights lie.

This is the module to import; the layouts live beside it: `sam` (Segment Anything), `mae`
(pre-training of the surrogate's encoder), `imagenet` (an installed package), `official` (the
released generator) and `release` (our safetensors file). Models are built first and filled here;
building reads no file, and reading runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unseg.io.weight_files.read import (
    DAMAGED,
    WeightFile,
    read_weight_file,
    state_dict_of,
    tensors_of,
)
from unseg.models.build import generator_like, outline_like
from unseg.models.embedded import EMBEDDED, embedded_path, resolve_weights
from unseg.models.formats.imagenet import efficientnet_lite0_path, load_efficientnet_lite0
from unseg.models.formats.mae import MAE_FORMAT, load_mae, read_mae, save_mae
from unseg.models.formats.official import export_official, generator_from_official
from unseg.models.formats.pattern import pattern_carrier, pattern_from_file
from unseg.models.formats.release import generator_from_release, save_release
from unseg.models.formats.sam import DECODER, fill_surrogate, load_sam, load_sam_parts, save_sam
from unseg.models.formats.transfer import LoadReport, check_fit, transfer
from unseg.models.generator import Generator
from unseg.models.pattern import Pattern
from unseg.models.surrogate import Surrogate
from unseg.utils.errors import UserError

__all__ = [
    "CHECKPOINT_FORMAT",
    "EMBEDDED",
    "MAE_FORMAT",
    "LoadReport",
    "efficientnet_lite0_path",
    "embedded_path",
    "export_official",
    "load_efficientnet_lite0",
    "load_generator",
    "load_mae",
    "load_noise",
    "load_sam",
    "load_sam_parts",
    "load_surrogate",
    "read_mae",
    "resolve_weights",
    "save_mae",
    "save_release",
    "save_sam",
]

CHECKPOINT_FORMAT = "unseg-checkpoint"

BILEVEL, PRETRAINING = "bilevel", "pretrain-sam"
"""What a checkpoint is of: the game, or a segmenter alone."""


def load_noise(
    path: str | Path, *, parent: str | Path | None = None, device: str | torch.device = "cpu"
) -> Generator | Pattern:
    """What protects pictures: a pattern, or a generator as `load_generator` has it.

    Raises:
        UserError: the file is unsafe, damaged, incomplete or neither.
    """
    file = read_weight_file(resolve_weights(path))
    carrier = pattern_carrier(file)
    if carrier is None:
        return _generator_of(file, parent).to(device).eval()
    return pattern_from_file(file, carrier).to(device).eval()


def load_generator(
    path: str | Path, *, parent: str | Path | None = None, device: str | torch.device = "cpu"
) -> Generator:
    """The generator of a file, in evaluation mode.

    Args:
        path: a file in the released layout (`Generator_unseg_final.pth`, read as `official`), a
            training checkpoint, a safetensors release, or a name in `EMBEDDED`. The kind is judged
            by content.
        parent: Segment Anything file of a release that needs one; None looks for it beside the
            release and in `pretrained_checkpoint/`. The other kinds need none.
        device: where the model goes.

    Raises:
        UserError: the file is unsafe, damaged, incomplete or no generator.
    """
    file = read_weight_file(resolve_weights(path))
    if pattern_carrier(file) is not None:
        raise UserError(
            f"{file.path}: holds a pattern, no network: it protects pictures, but cannot be "
            "exported or trained"
        )
    return _generator_of(file, parent).to(device).eval()


def load_surrogate(surrogate: Surrogate, path: str | Path) -> LoadReport:
    """Fill a surrogate: its encoder from a MAE file, or all of it from a whole segmenter.

    The kind is judged by content: a file with a mask decoder is a segmenter, of `save_sam` or
    Meta's.

    Raises:
        UserError: the file is unsafe, damaged or does not fit.
    """
    file = read_weight_file(path)
    if file.content.get("format") != MAE_FORMAT:
        state = state_dict_of(file)
        if any(name.startswith(DECODER) for name in state):
            return fill_surrogate(surrogate, state, path)
    return load_mae(surrogate, path)


def _generator_of(file: WeightFile, parent: str | Path | None) -> Generator:
    if file.kind == "safetensors":
        return generator_from_release(file, parent=parent)
    if file.content.get("format") == CHECKPOINT_FORMAT:
        return _generator_from_checkpoint(file)
    if file.content.get("format") == MAE_FORMAT:
        raise UserError(
            f"{file.path}: holds a pre-trained encoder for the surrogate, no generator; load it "
            "with load_mae, or name it in a training configuration"
        )
    return generator_from_official(state_dict_of(file), file.path)


def _generator_from_checkpoint(file: WeightFile) -> Generator:
    """The generator of a training run, weights as of that step."""
    models: Any = file.content.get("models")
    if file.content.get("kind") == PRETRAINING:
        raise UserError(
            f"{file.path}: is a checkpoint of `unseg pretrain-sam`, which trains no generator; "
            "give the sam.pth of its run to generator.weights, or a generator here"
        )
    arguments = models.get("generator") if isinstance(models, Mapping) else None
    if not isinstance(arguments, Mapping):
        raise UserError(f"{file.path}: checkpoint without models.generator; {DAMAGED}")
    tensors = tensors_of(file.content.get("generator"), file.path)
    try:
        outline = outline_like(arguments)
    except (TypeError, UserError) as error:
        raise UserError(
            f"{file.path}: asks for a generator that cannot be built ({error}); install a newer "
            f"unseg, or {DAMAGED}"
        ) from None
    check_fit(outline, tensors, file.path)
    generator = generator_like(arguments)
    transfer(generator, tensors, source=file.path)
    return generator
