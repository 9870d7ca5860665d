"""What a weight file says of itself, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unseg.io.files import sha256_file
from unseg.io.weight_files.read import WeightFile, state_dict_of, tensors_of
from unseg.models.formats.mae import MAE_FORMAT
from unseg.models.formats.pattern import pattern_carrier
from unseg.models.formats.release import release_header
from unseg.models.formats.transfer import ENCODER, encoder_shape
from unseg.models.weights import CHECKPOINT_FORMAT, PRETRAINING


def describe(file: WeightFile) -> dict[str, Any]:
    """What a weight file is, as plain data."""
    kind, tensors, more = _kind(file)
    shape = encoder_shape(tensors)
    if shape is not None:
        more = {"encoder": str(shape), **more}
    return {
        "path": str(file.path),
        "kind": kind,
        "bytes": file.path.stat().st_size,
        "sha256": sha256_file(file.path),
        "tensors": len(tensors),
        "values": sum(value.numel() for value in tensors.values()),
        **more,
    }


def _kind(file: WeightFile) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """The kind of a file in words, its tensors, and what its header says."""
    content = file.content
    if (carrier := pattern_carrier(file)) is not None:
        return "pattern", tensors_of(content, file.path), {"carrier": carrier}
    if file.kind == "safetensors":
        header = release_header(file)
        more = {key: header[key] for key in ("build_arguments", "dtype", "parent", "metadata")}
        return "unseg release", tensors_of(content, file.path), more
    if content.get("format") == CHECKPOINT_FORMAT:
        more = {"models": content.get("models"), "progress": content.get("progress")}
        known = {key: value for key, value in more.items() if isinstance(value, Mapping)}
        player = "surrogate" if content.get("kind") == PRETRAINING else "generator"
        tensors = tensors_of(content.get(player), file.path)
        return f"training checkpoint (its {player} is counted)", tensors, _plain(known)
    if content.get("format") == MAE_FORMAT:
        tensors = tensors_of(content.get("encoder"), file.path)
        return "pre-trained encoder", {ENCODER + k: v for k, v in tensors.items()}, {}
    tensors = state_dict_of(file)
    if any("noise" in name for name in tensors):
        return "generator in the released layout, read as official", tensors, {}
    if any(name.startswith("mask_decoder.") for name in tensors):
        return "Segment Anything", tensors, {}
    return "state dict", tensors, {}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy that JSON can hold; what it cannot is written as text."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def origin(file: WeightFile) -> dict[str, Any]:
    """What a source says of its training, for the metadata of the release."""
    if file.kind == "safetensors":
        return dict(release_header(file)["metadata"])
    if file.content.get("format") != CHECKPOINT_FORMAT:
        return {}
    kept = ("config", "progress", "best", "provenance")
    return _plain({key: file.content[key] for key in kept if key in file.content})
