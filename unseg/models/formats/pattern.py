"""A safetensors file that holds a pattern: the tensor `noise` and, in the header, its carrier.

The header holds one entry, `unseg`, as a release does: a JSON object with `format`, `version` and
`carrier`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from unseg.io.files import atomic_write_bytes
from unseg.io.weight_files.read import DAMAGED, WeightFile, tensors_of
from unseg.models.formats.release import HEADER_KEY
from unseg.models.pattern import Pattern
from unseg.noise import Carrier
from unseg.utils.errors import UserError

PATTERN_FORMAT = "unseg-pattern"
_MAX_SIDE = 4096


def save_pattern(pattern: Pattern, path: str | Path) -> None:
    """Write a pattern, rounded to float16.

    Raises:
        UserError: the file cannot be written.
    """
    header = {"format": PATTERN_FORMAT, "version": 1, "carrier": str(pattern.noise_carrier)}
    tensors = {"noise": pattern.noise.detach().to("cpu", torch.float16).contiguous()}
    text = json.dumps(header, sort_keys=True)
    atomic_write_bytes(path, save(tensors, metadata={HEADER_KEY: text}))


def pattern_carrier(file: WeightFile) -> str | None:
    """The carrier that the header names, or None where the file is no pattern."""
    try:
        header = json.loads(file.header[HEADER_KEY])
        is_pattern = header["format"] == PATTERN_FORMAT
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return str(header.get("carrier")) if is_pattern else None


def pattern_from_file(file: WeightFile, carrier: str) -> Pattern:
    """The pattern of a file.

    Args:
        file: a safetensors file.
        carrier: from `pattern_carrier`.

    Raises:
        UserError: the tensor is missing, of another shape, or beyond [-1, 1].
    """
    noise = tensors_of(file.content, file.path).get("noise")
    if noise is None or noise.ndim != 3 or not 1 <= noise.shape[-1] <= _MAX_SIDE:
        raise UserError(f"{file.path}: holds no pattern (3, n, n); {DAMAGED}")
    if noise.shape != (3, noise.shape[-1], noise.shape[-1]) or not (noise.abs() <= 1).all():
        raise UserError(f"{file.path}: its pattern is not (3, n, n) in [-1, 1]; {DAMAGED}")
    try:
        return Pattern(noise, Carrier.parse(carrier))
    except ValueError as error:
        raise UserError(f"{file.path}: carrier: {error}") from None
