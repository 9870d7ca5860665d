"""Directories of tags (TIFF files, EXIF blocks), walked within bounds.

A directory may name the same bytes a thousand times, so that reading it takes a thousand times the
memory of its file. Here the sizes are added before a value is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Take = Callable[[int, int], bytes]
"""`take(position, count)`: bytes of a file, fewer at its end."""

ORIENTATION_TAG = 0x0112

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
_SLACK = 4096
_MAX_ENTRIES = 65_535
_MAX_VALUES = 1_000_000


@dataclass(frozen=True)
class Directory:
    """The first directory of a file or block.

    Attributes:
        values: whole numbers of each tag that holds some.
        following: position of the next directory, 0 where there is none.
    """

    values: dict[int, tuple[int, ...]]
    following: int


def first_directory(take: Take, size: int, wanted: frozenset[int] = frozenset()) -> Directory:
    """The first directory, its sizes checked.

    Args:
        take: the file or block.
        size: its length in bytes.
        wanted: tags whose values are read.

    Raises:
        ValueError: it has no such directory, or its values are more than the file.
        struct.error: it ends within the directory.
    """
    head = take(0, 16)
    order: Literal["<", ">"] = "<" if head[:2] == b"II" else ">"
    is_big = 43 in struct.unpack(f"{order}H", head[2:4])
    entry_size, inline, entry = (20, 8, "HHQ8s") if is_big else (12, 4, "HHI4s")
    (start,) = struct.unpack(order + "Q", head[8:16]) if is_big else _long(order, head[4:8])
    count_size = 8 if is_big else 2
    (count,) = struct.unpack(order + ("Q" if is_big else "H"), take(start, count_size))
    if count > _MAX_ENTRIES:
        raise ValueError(f"a directory of {count} tags")
    table = take(start + count_size, count * entry_size)
    total, values = 0, {}
    for index in range(count):
        tag, kind, number, content = struct.unpack_from(order + entry, table, index * entry_size)
        length = number * _SIZES.get(kind, 0)
        if length > inline:
            total += length
            (at,) = struct.unpack(order + "Q", content) if is_big else _long(order, content)
        if total > size + _SLACK:
            raise ValueError("a directory whose values are larger than the file")
        if tag in wanted and kind in _WHOLE:
            if number > _MAX_VALUES:
                raise ValueError(f"tag {tag} of {number} values")
            data = content[:length] if length <= inline else take(at, length)
            values[tag] = struct.unpack(f"{order}{number}{_WHOLE[kind]}", data)
    end = take(start + count_size + count * entry_size, 8 if is_big else 4)
    following = int.from_bytes(end, "little" if order == "<" else "big")
    return Directory(values, following)


def check_block(block: bytes) -> None:
    """Refuse an EXIF or multi-picture block whose values are larger than itself.

    Raises:
        ValueError: as it says; a block that is no directory at all passes, for readers skip it.
    """
    block = block.removeprefix(b"Exif\0\0")
    try:
        first_directory(lambda at, count: block[at : at + count], len(block))
    except struct.error:
        return


def _long(order: str, data: bytes) -> tuple[int]:
    return struct.unpack(order + "I", data)
