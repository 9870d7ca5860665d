"""Reading weight files without ever running code from them.

A torch file is a pickle, and a pickle is a program. Three gates keep it from running: only the zip
layout that `torch.save` writes since torch 1.6 is opened, a TorchScript archive (which carries code
by design) is turned away by its contents, and what remains goes through
`torch.load(weights_only=True)`, which builds tensors and plain containers and nothing else.

Nor can a small file ask for much memory or time: what its directory, pickle or header promise is
compared with its size before anything is built (`archive`, `unpickling`).
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unseg.io.files import check_regular
from unseg.io.weight_files.archive import ProgramError, check_archive
from unseg.io.weight_files.unpickling import DamagedError, ForbiddenError
from unseg.utils.errors import UserError

MAX_HEADER_BYTES = 16 << 20
"""Longest JSON header of a safetensors file; one of 400 tensors has 50 kB."""

_ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""How files of torch before 1.6 begin: protocol 2 and a magic number."""
_DAMAGED = (
    RuntimeError, EOFError, ValueError, LookupError, OSError, struct.error, zipfile.BadZipFile,
    TypeError, AttributeError, AssertionError, NotImplementedError, MemoryError,
)  # fmt: skip
"""What torch and zipfile raise for a damaged file."""
_WRAPPERS = ("model", "state_dict")

DAMAGED = "download or copy it again"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds, read into memory.

    Attributes:
        path: the file.
        kind: `torch` or `safetensors`, judged by content.
        content: what was saved: containers and tensors; tensors by name for safetensors.
        header: the metadata of a safetensors file.
    """

    path: Path
    kind: Literal["torch", "safetensors"]
    content: Mapping[str, Any]
    header: Mapping[str, str] = field(default_factory=dict)


def read_weight_file(path: str | Path, *, remedy: str = DAMAGED) -> WeightFile:
    """Read a torch or safetensors file on the CPU.

    Args:
        path: the file.
        remedy: what to do about a damaged one, for the message.

    Raises:
        UserError: it is missing, truncated, of another kind, promises more than it holds, or holds
            more than tensors and plain containers. Nothing in it has run.
    """
    path = Path(path)
    start = _first_bytes(path)
    if start.startswith(_ZIP):
        return WeightFile(path=path, kind="torch", content=_read_torch(path, remedy))
    if start.startswith(TORCH_LEGACY):
        raise UserError(
            f"{path}: is in the layout of torch before 1.6, whose memory cannot be bounded; it was "
            "not opened. If you trust it, open it and torch.save its state dict again"
        )
    # A length of eight bytes, little endian, then JSON. Its first byte may be anything, so this
    # comes before the test for a pickle.
    if start[4:9] == b"\0\0\0\0{":
        if struct.unpack("<Q", start[:8])[0] > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise _damaged(path, remedy)
        content, header = _read_safetensors(path, remedy)
        return WeightFile(path=path, kind="safetensors", content=content, header=header)
    if start[:1] == b"\x80":
        raise UserError(
            f"{path}: is a plain pickle, which could run any program; it was not opened. Ask for "
            "a file written by torch.save or safetensors"
        )
    found = "is empty" if not start else "is neither a torch file nor a safetensors file"
    raise UserError(f"{path}: {found}; {remedy}, or check that it is a weight file")


def state_dict_of(file: WeightFile) -> dict[str, Tensor]:
    """Tensors by name; a state dict wrapped under `model` or `state_dict` is unwrapped.

    Raises:
        UserError: the file holds something else than dense float tensors by name.
    """
    content: Any = file.content
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return tensors_of(content, file.path)


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """`content` as tensors by name.

    Raises:
        UserError: it is no mapping from names to dense float tensors.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no tensors by name; give a file that holds a state dict")
    for name, value in content.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, Tensor)
            or value.layout != torch.strided
            or not value.is_floating_point()
        ):
            found = type(value).__name__ if not isinstance(value, Tensor) else str(value.dtype)
            raise UserError(
                f"{path}: {name!r} is {found}, not a dense tensor of floats; give a file that "
                "holds a state dict only"
            )
    return dict(content)


def _first_bytes(path: Path) -> bytes:
    try:
        check_regular(path)
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise UserError(f"{path}: no such weight file; `unseg weights list` shows some") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the weight file in it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_torch(path: Path, remedy: str) -> Mapping[str, Any]:
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ProgramError:
        raise UserError(
            f"{path}: is a TorchScript archive, which carries a program; it was not opened. Ask "
            "for a file that holds a state dict"
        ) from None
    except (ForbiddenError, pickle.UnpicklingError) as error:
        # What torch says is not for users: it advises to trust the file.
        culprit = f" (it asks for {error})" if isinstance(error, ForbiddenError) else ""
        raise UserError(
            f"{path}: refused because it holds more than tensors and plain containers"
            f"{culprit}, and weights never run code; ask for a file that holds a state dict"
        ) from None
    except DamagedError as error:
        raise _damaged(path, remedy, f": {error}") from None
    except _DAMAGED:
        raise _damaged(path, remedy) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__}, not a state dict; give another file"
        )
    return content


def _read_safetensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError):
        raise _damaged(path, remedy) from None


def _damaged(path: Path, remedy: str, reason: str = "") -> UserError:
    size = path.stat().st_size
    return UserError(f"{path}: is truncated or damaged ({size:,} bytes){reason}; {remedy}")
