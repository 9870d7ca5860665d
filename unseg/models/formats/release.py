"""The safetensors release: what was trained, how to build the model, and checksums of all of it.

The header holds one entry, `unseg`, a JSON object:

- `format` and `version` of this layout;
- `build_arguments`: keyword arguments of `build_generator`;
- `dtype`: how parameters are stored, `float32` or `float16`; buffers are always float32;
- `parent`: name, size in bytes and sha256 of the Segment Anything file that holds every tensor
  which is not stored here, or null where all are stored;
- `sha256`: of the stored tensors;
- `metadata`: whatever the author adds, such as the training configuration and results.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from unseg.io.files import atomic_write_bytes, sha256_file
from unseg.io.weight_files.read import DAMAGED, WeightFile, tensors_of
from unseg.models.build import generator_like, outline_like
from unseg.models.formats.download import PARENT_DIR
from unseg.models.formats.sam import load_sam
from unseg.models.formats.transfer import check_size, check_tensors
from unseg.models.generator import Generator
from unseg.utils.errors import UserError

RELEASE_FORMAT = "unseg-generator"
VERSION = 1

HEADER_KEY = "unseg"
"""Entry of a safetensors header that is ours."""

_MAX_GROWTH = 4

Storage = Literal["float32", "float16"]


def save_release(
    generator: Generator,
    path: str | Path,
    *,
    metadata: Mapping[str, Any],
    parent_path: str | Path | None = None,
    dtype: Storage = "float32",
) -> None:
    """Write a release.

    With a parent file, only the trainable tensors are stored, and any other that is not bit for
    bit what the parent gives; without one, all are stored. `float16` halves the file: parameters
    are rounded to the nearest float16 value and load as exactly that value in float32; buffers
    keep their 32 bits, because the positional encoding multiplies them by pixel positions.

    Args:
        generator: the model.
        path: file to write.
        metadata: plain data for the header (JSON).
        parent_path: the Segment Anything file that the frozen part came from.
        dtype: how parameters are stored.

    Raises:
        UserError: the parent does not fit, a value is not finite or exceeds float16, the metadata
            is not plain data, or the file cannot be written.
    """
    if dtype not in get_args(Storage):
        raise UserError(f"dtype={dtype!r}: choose from {', '.join(get_args(Storage))}")
    state = generator.state_dict()
    stored, parent = set(state), None
    if parent_path is not None:
        parent_path = Path(parent_path)
        from_parent = _state_with_parent(generator, parent_path)
        stored = set(generator.trainable_parameters()) | {
            name for name in state if not torch.equal(state[name].cpu(), from_parent[name])
        }
        size, digest = parent_path.stat().st_size, sha256_file(parent_path)
        parent = {"name": parent_path.name, "size": size, "sha256": digest}
    buffers = {name for name, _ in generator.named_buffers()}
    storage: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
    tensors = {
        name: _stored(state[name], torch.float32 if name in buffers else storage[dtype], name)
        for name in sorted(stored)
    }
    header = {
        "format": RELEASE_FORMAT,
        "version": VERSION,
        "build_arguments": generator.build_arguments,
        "dtype": dtype,
        "parent": parent,
        "sha256": tensors_sha256(tensors),
        "metadata": dict(metadata),
    }
    try:
        text = json.dumps(header, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: metadata must be plain data (JSON): {error}") from None
    atomic_write_bytes(path, save(tensors, metadata={HEADER_KEY: text}))


def generator_from_release(file: WeightFile, *, parent: str | Path | None = None) -> Generator:
    """The generator of a release.

    Args:
        file: a safetensors file.
        parent: the Segment Anything file it names; None looks for that name beside the release
            and in `pretrained_checkpoint/`.

    Raises:
        UserError: it is no release, a checksum differs, or the parent is missing or another file.
    """
    header = release_header(file)
    tensors = tensors_of(file.content, file.path)
    if tensors_sha256(tensors) != header["sha256"]:
        raise UserError(f"{file.path}: tensors do not match their checksum; {DAMAGED}")
    outline = _outline(header, file.path)
    check_size(outline, tensors, file.path)
    shapes = {name: tuple(value.shape) for name, value in outline.state_dict().items()}
    parent_path = None
    if header["parent"] is not None:
        parent_path = find_parent(file.path, header["parent"], parent)
        trainable = outline.trainable_parameters()
        wanted = {k: v for k, v in shapes.items() if k in trainable or k in tensors}
        check_tensors(tensors, wanted, file.path)
        _check_growth(shapes, tensors, header["parent"]["size"], file.path)
    else:
        check_tensors(tensors, shapes, file.path)
    generator = generator_like(header["build_arguments"])
    if parent_path is not None:
        load_sam(generator, parent_path)
    generator.load_state_dict(tensors, strict=False)
    return generator


def release_header(file: WeightFile) -> dict[str, Any]:
    """The header of a release, its fields present and of the right kind.

    Raises:
        UserError: the file is no release of ours, or of a newer version.
    """
    try:
        header = json.loads(file.header[HEADER_KEY])
        known = header["format"] == RELEASE_FORMAT and int(header["version"]) >= 1
        version = int(header["version"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        known, version, header = False, 0, {}
    if not known:
        raise UserError(
            f"{file.path}: its header does not say {RELEASE_FORMAT!r}; give a file written by "
            "`unseg weights export`"
        )
    if version > VERSION:
        raise UserError(
            f"{file.path}: is a release of version {version}, this program reads up to {VERSION}; "
            "install a newer unseg"
        )
    parent = header.get("parent")
    parent_ok = parent is None or (
        isinstance(parent, dict)
        and isinstance(parent.get("name"), str)
        and isinstance(parent.get("sha256"), str)
        and isinstance(parent.get("size"), int)
    )
    if not (
        parent_ok
        and isinstance(header.get("build_arguments"), dict)
        and isinstance(header.get("sha256"), str)
    ):
        raise UserError(f"{file.path}: its header is incomplete; {DAMAGED}")
    return {"parent": None, "metadata": {}, **header}


def find_parent(release: Path, record: Mapping[str, Any], given: str | Path | None) -> Path:
    """The parent file that `record` (name, size, sha256) describes, verified.

    Args:
        release: the release file.
        record: the header's `parent`.
        given: the file to take; None looks beside the release and in `pretrained_checkpoint/`.

    Raises:
        UserError: there is no such file, or it is another one.
    """
    # Only the last part of the name: a header must not point anywhere else.
    name = Path(str(record["name"])).name
    places = [release.parent / name, PARENT_DIR / name] if given is None else [Path(given)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{release}: holds the trained tensors only and needs {name} ({record['size']:,} "
            f"bytes, sha256 {record['sha256']}), not found at {' or '.join(map(str, places))}; "
            f"put it into {PARENT_DIR}/ (`unseg weights download` fetches Segment Anything) or "
            "name it with --parent"
        )
    size = found.stat().st_size
    if size != record["size"] or sha256_file(found) != record["sha256"]:
        raise UserError(
            f"{found}: is not the file that {release} was trained on (found {size:,} bytes, "
            f"wanted {record['size']:,} with sha256 {record['sha256']}); replace it by that file"
        )
    return found


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _outline(header: Mapping[str, Any], path: Path) -> Generator:
    """The generator that a header asks for, on the meta device."""
    try:
        return outline_like(header["build_arguments"])
    except (TypeError, UserError) as error:
        raise UserError(
            f"{path}: its header asks for a generator that cannot be built ({error}); install a "
            f"newer unseg, or {DAMAGED}"
        ) from None


def _check_growth(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    parent_size: int,
    path: Path,
) -> None:
    """Refuse a frozen part far larger than the parent it is resampled from.

    Resampled positions grow with the image; twice the side adds less than a fifth to `vit_b`.
    """
    found = sum(value.numel() for value in tensors.values()) + parent_size // 4
    asked = sum(math.prod(shape) for shape in shapes.values())
    if asked > _MAX_GROWTH * found:
        raise UserError(
            f"{path}: its header asks for a generator of {asked:,} numbers, and it and its parent "
            f"hold {found:,}; {DAMAGED}"
        )


def _state_with_parent(generator: Generator, parent_path: Path) -> dict[str, Tensor]:
    """State of a generator built like this one, with the parent loaded."""
    twin = generator_like(generator.build_arguments)
    load_sam(twin, parent_path)
    return twin.state_dict()


def _stored(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    value = tensor.detach().cpu().to(dtype).contiguous()
    if not torch.isfinite(value).all():
        raise UserError(
            f"{name}: has values that are not finite in {dtype}; export a healthy checkpoint, or "
            "as float32"
        )
    return value.clone()
