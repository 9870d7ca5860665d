"""Arrays from plain pickles (detectron2's model files), without running what a pickle asks for.

A pickle is a program that calls what it names. Here it can name only what NumPy writes an array
with, and even that stands for functions of this module: NumPy's own trust the layout that a pickle
gives them, so that a forged one would reach memory that is not the array's.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from unseg.io.tensors import DAMAGED, TORCH_LEGACY
from unseg.utils.errors import UserError

_KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})
_CONVERSION = (
    "torch.save({k: torch.as_tensor(v) for k, v in pickle.load(open(FILE, 'rb'))['model']"
    ".items()}, 'model.pth')"
)


class _RefusedError(Exception):
    """The pickle names something else than what arrays are written with."""


class _Kind:
    """What a pickled `numpy.dtype` says: kind and byte order, and nothing else of it."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        if code not in _KINDS:
            raise _RefusedError(f"arrays of {code!r}")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(state[1])
        self.order = state[1].replace("|", "=")


class _Array:
    """A place for one array, filled by its pickled state."""

    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor: torch.Tensor | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        self.fill(data, kind, shape, "F" if is_fortran else "C")

    def fill(self, data: Any, kind: Any, shape: Any, order: str) -> None:
        """Take the numbers of a buffer that has exactly the announced size."""
        if not isinstance(kind, _Kind) or not isinstance(data, bytes | bytearray):
            raise TypeError(type(data).__name__)
        stored = np.dtype(kind.code).newbyteorder(kind.order)  # type: ignore[arg-type]
        if min(shape, default=0) < 0 or math.prod(shape) * stored.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for {shape}")
        values = np.frombuffer(data, stored).reshape(shape, order="F" if order == "F" else "C")
        self.tensor = torch.from_numpy(np.array(values, stored.newbyteorder("="), order="C"))


class _Reader(pickle.Unpickler):
    """Knows the handful of names with which NumPy and detectron2 write arrays by name."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        # A pickle may set attributes of what it names: each reading has stand-ins of its own.
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in self._known:
            raise _RefusedError(full)
        return self._known[full]


def _stand_ins() -> dict[str, Any]:
    def reconstruct(*_: object) -> _Array:
        return _Array()

    def from_buffer(data: object, kind: object, shape: object, order: str) -> _Array:
        array = _Array()
        array.fill(data, kind, shape, order)
        return array

    def dtype(code: str, *_: object) -> _Kind:
        return _Kind(code)

    def encode(text: str, *_: object) -> bytes:
        return text.encode("latin1")

    def ordered(*items: Any) -> dict[Any, Any]:
        return dict(*items)

    stand_ins: dict[str, Callable[..., Any] | object] = {
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy.core.numeric._frombuffer": from_buffer,
        "numpy.ndarray": object(),
        "numpy.dtype": dtype,
        "_codecs.encode": encode,
        "collections.OrderedDict": ordered,
    }
    return stand_ins


def is_plain_pickle(path: Path) -> bool:
    """Whether a file is a pickle that `torch.save` did not write."""
    with path.open("rb") as file:
        start = file.read(len(TORCH_LEGACY))
    return start[:1] == b"\x80" and start != TORCH_LEGACY


def read_arrays(path: Path) -> Any:
    """What a plain pickle holds, with its arrays as tensors on the CPU.

    Raises:
        UserError: it is damaged, or asks for anything but arrays, text, numbers and containers.
            Nothing in it has run.
    """
    try:
        with path.open("rb") as file:
            return _with_tensors(_Reader(file).load())
    except _RefusedError as error:
        raise UserError(
            f"{path}: refused: of a pickle only arrays by name are read, and this one asks for "
            f"{error}; if you trust it, convert it yourself with Python: {_CONVERSION}"
        ) from None
    except (pickle.UnpicklingError, EOFError, MemoryError, RecursionError) as error:
        _damaged(path, error)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        _damaged(path, error)


def _damaged(path: Path, error: BaseException) -> NoReturn:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(f"{path}: a damaged pickle of arrays ({reason}); {DAMAGED}") from None


def _with_tensors(content: Any) -> Any:
    if isinstance(content, _Array):
        if content.tensor is None:
            raise ValueError("an array without numbers")
        return content.tensor
    if isinstance(content, Mapping):
        return {key: _with_tensors(value) for key, value in content.items()}
    return content
