"""What the pickle of a torch file would build, found without building it.

`torch.load(weights_only=True)` runs no code, but a pickle of a few hundred bytes can still keep it
busy for minutes or ask for gigabytes: codecs that double a text each time, tuples of tuples as
keys, views of one number as a matrix of terabytes. Here the pickle is followed with stand-ins in
place of values. Only what state dicts and checkpoints consist of is let through: numbers, texts,
lists, tuples, dictionaries with plain keys, dense tensors within their storage.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 16 << 20
MAX_STEPS = 1_000_000
"""A file of 300 tensors takes 16 thousand steps, a checkpoint of `vit_h` below 200 thousand."""
MAX_VALUES = 4_000_000
"""Values where each shared container counts once for each place it appears in."""
MAX_DEPTH = 64

_ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
    "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16, "UntypedStorage": 1,
}  # fmt: skip
_CODECS = ("latin1", "latin-1", "utf-8", "ascii")
_ATOMS = (str, bytes, int, float, type(None))
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXTS = (
    "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1",
)  # fmt: skip
_GET, _PUT = ("BINGET", "LONG_BINGET"), ("BINPUT", "LONG_BINPUT")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class ForbiddenError(ValueError):
    """A pickle asks for something else than tensors and plain containers: what it asks for."""


class DamagedError(ValueError):
    """A pickle does not fit itself or the file around it: how."""


@dataclass(frozen=True)
class _Name:
    """A class or function, by its full name; nothing is imported."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers in a record of the file."""

    num_items: int
    item_bytes: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    num_bytes: int


@dataclass
class _Container:
    """A list, tuple or dictionary: what lies in it."""

    items: list[Any] = field(default_factory=list)
    kind: str = "list"


def check_pickle(data: bytes, record_bytes: Mapping[str, int]) -> None:
    """Follow a pickle without building anything.

    Args:
        data: `data.pkl` of a torch file.
        record_bytes: size of each record of the file that holds a storage, by its key.

    Raises:
        ForbiddenError: it asks for more than tensors and plain containers.
        DamagedError: it is cut off, too long, or asks for more numbers than the file holds.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise DamagedError(f"its pickle of {len(data):,} bytes is longer than {MAX_PICKLE_BYTES:,}")
    machine = _Machine(record_bytes)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step >= MAX_STEPS:
                raise DamagedError(f"its pickle takes more than {MAX_STEPS:,} steps")
            machine.step(opcode.name, argument)
        root = machine.stack.pop()
    except (ForbiddenError, DamagedError):
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        raise DamagedError("its pickle is cut off or senseless") from None
    _count(root, {}, 0)
    limit = 4 * sum(record_bytes.values()) + (1 << 20)
    if machine.tensor_bytes > limit:
        raise DamagedError(f"its tensors take {machine.tensor_bytes:,} bytes, more than it holds")


class _Machine:
    """The stack machine of a pickle of protocol 2, with stand-ins for values."""

    def __init__(self, record_bytes: Mapping[str, int]) -> None:
        self.record_bytes = record_bytes
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.tensor_bytes = 0
        self._steps: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "EMPTY_LIST": lambda: self.stack.append(_Container()),
            "EMPTY_DICT": lambda: self.stack.append(_Container(kind="dict")),
            "EMPTY_TUPLE": lambda: self.stack.append(_Container(kind="tuple")),
            "TUPLE": lambda: self.stack.append(_Container(self._to_mark(), "tuple")),
            "APPEND": lambda: self._extend([self.stack.pop()]),
            "APPENDS": lambda: self._extend(self._to_mark()),
            "SETITEM": lambda: self._set(self._last(2)),
            "SETITEMS": lambda: self._set(self._to_mark()),
            "BINPERSID": lambda: self.stack.append(self._storage(self.stack.pop())),
            "REDUCE": lambda: self.stack.append(self._call(*self._last(2))),
            "BUILD": self._build,
        }

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _NUMBERS_AND_TEXTS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name in _PUT:
            self.memo[argument] = self.stack[-1]
        elif name in _TUPLES:
            self.stack.append(_Container(self._last(_TUPLES[name]), "tuple"))
        elif name == "GLOBAL":
            self.stack.append(_Name(argument.replace(" ", ".")))
        elif name in self._steps:
            self._steps[name]()
        elif name not in ("PROTO", "STOP"):
            raise ForbiddenError(f"the pickle instruction {name}")

    def _last(self, count: int) -> list[Any]:
        taken = self.stack[-count:]
        if len(taken) < count:
            raise IndexError
        del self.stack[-count:]
        return taken

    def _to_mark(self) -> list[Any]:
        taken = []
        while (value := self.stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def _extend(self, values: list[Any]) -> None:
        if self.stack[-1].kind != "list":
            raise TypeError
        self.stack[-1].items += values

    def _set(self, pairs: list[Any]) -> None:
        if self.stack[-1].kind != "dict":
            raise TypeError
        for key in pairs[::2]:
            _check_key(key)
        self.stack[-1].items += pairs

    def _build(self) -> None:
        """Attributes of an OrderedDict: the versions of a state dict."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Container) or self.stack[-1].kind != "dict":
            raise ForbiddenError("attributes of something else than a dictionary")
        self.stack[-1].items.append(state)

    def _storage(self, description: _Container) -> _Storage:
        _, kind, key, _, num_items = description.items
        item_bytes = _ITEM_BYTES.get(kind.name.rsplit(".", 1)[-1])
        if item_bytes is None or not kind.name.startswith("torch."):
            raise ForbiddenError(kind.name)
        if num_items < 0 or num_items * item_bytes > self.record_bytes[key]:
            raise DamagedError(
                f"it promises {num_items:,} numbers in record {key!r} of "
                f"{self.record_bytes[key]:,} bytes"
            )
        return _Storage(num_items, item_bytes)

    def _call(self, function: Any, arguments: _Container) -> Any:
        """The result of a function that state dicts need; all others are refused."""
        if not isinstance(function, _Name):
            raise ForbiddenError(f"a call of {type(function).__name__.strip('_').lower()}")
        values, name = arguments.items, function.name
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"):
            return self._tensor(*values[:4])
        if name.startswith("torch._utils._rebuild_parameter"):
            return values[0]
        if name == "collections.OrderedDict":
            pairs = [item for pair in _items(values) for item in pair.items]
            for key in pairs[::2]:
                _check_key(key)
            return _Container(pairs, "dict")
        if name == "torch.Size":
            return values[0]
        if name == "torch.device" or (name == "_codecs.encode" and _is_plain_encoding(values)):
            return b""
        if name in ("builtins.set", "__builtin__.set"):
            for key in _items(values):
                _check_key(key)
            return _Container(_items(values), "set")
        raise ForbiddenError(name)

    def _tensor(self, storage: Any, offset: int, size: _Container, stride: _Container) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise TypeError
        shape, steps = size.items, stride.items
        if len(shape) != len(steps) or len(shape) > MAX_DEPTH:
            raise DamagedError(f"a tensor of it has {len(shape)} dimensions")
        if any(n < 0 for n in (offset, *shape, *steps)):
            raise DamagedError("a tensor of it has a negative size")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if count > storage.num_items or (count and last >= storage.num_items):
            raise DamagedError(
                f"a tensor of it has {count:,} numbers, its storage {storage.num_items:,}"
            )
        self.tensor_bytes += count * storage.item_bytes
        return _Tensor(count * storage.item_bytes)


def _items(values: list[Any]) -> list[Any]:
    return values[0].items if values else []


def _check_key(key: Any) -> None:
    """Keys are hashed: of nested tuples that can take for ever."""
    if not isinstance(key, _ATOMS):
        raise ForbiddenError("a key that is no text and no number")


def _is_plain_encoding(values: list[Any]) -> bool:
    """Whether a text becomes bytes of about its length (`hex` of `hex` of ... doubles)."""
    return isinstance(values[0], str) and all(codec in _CODECS for codec in values[1:])


def _count(value: Any, seen: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """(values, levels) in a value, shared ones as often as they appear."""
    if not isinstance(value, _Container):
        return 1, 0
    if id(value) not in seen and depth <= MAX_DEPTH:
        counts = [_count(item, seen, depth + 1) for item in value.items]
        total, levels = 1 + sum(n for n, _ in counts), 1 + max((m for _, m in counts), default=0)
        seen[id(value)] = total, levels
    # A container that lies in itself is found by its depth as well.
    if depth > MAX_DEPTH or depth + seen[id(value)][1] > MAX_DEPTH:
        raise DamagedError(f"its containers are nested more than {MAX_DEPTH} deep")
    if seen[id(value)][0] > MAX_VALUES:
        raise DamagedError(f"it holds more than {MAX_VALUES:,} values")
    return seen[id(value)]
