"""Damage: a case of a seed is a name and the bytes of a file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.fuzz.pictures import Random, any_picture

_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 2000, 13_000, 32767, 65535, 1 << 20, 0x7FFFFFFF)
_NUMBERS += (0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_SUFFIXES = (".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".ppm", ".jfif", ".PNG", "", ".dat")
_SUFFIXES += (".heic", ".tga", ".txt", ".apng", ".tar.png")
_STEMS = ("x", "\N{GRINNING FACE}" * 20, os.fsdecode(b"\xff\xfe"), "a b", "a\nb", "-", "%s", "CON")


@dataclass(frozen=True)
class Case:
    """One damaged picture.

    Attributes:
        seed: of the run.
        index: within the seed.
        name: of the file; unique within the seed.
        data: its bytes.
    """

    seed: int
    index: int
    name: str
    data: bytes


def make_case(seed: int, index: int) -> Case:
    """Case `index` of a seed."""
    rng = np.random.default_rng((seed, index))
    data = any_picture(rng)
    for _ in range(int(rng.choice([0, 1, 1, 1, 2, 3]))):
        data = _DAMAGE[int(rng.integers(len(_DAMAGE)))](rng, data)
    if data.startswith(b"\x89PNG") and rng.random() < 0.7:
        data = _with_checksums(data)
    stem, suffix = _STEMS[int(rng.integers(len(_STEMS)))], rng.choice(_SUFFIXES)
    hidden = "." if rng.random() < 0.05 else ""
    return Case(seed, index, f"{hidden}{index:05d}{stem}{suffix}", data)


def _at(rng: Random, data: bytes, top: int | None = None) -> int:
    return int(rng.integers(max(1, min(len(data), top or len(data)))))


def _flipped(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if data else 0):
        changed[_at(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def _header_number(rng: Random, data: bytes) -> bytes:
    """A telling number among the first bytes, or among those of a TIFF's directory."""
    number = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    form = rng.choice(["<B", "<H", ">H", "<I", ">I"])
    packed = struct.pack(form, number & ((1 << 8 * struct.calcsize(form)) - 1))
    at = _at(rng, data, 200)
    if data[:2] == b"II" and rng.random() < 0.7:
        at = int.from_bytes(data[4:8], "little") + int(rng.integers(150))
    return data[:at] + packed + data[at + len(packed) :]


def _without(rng: Random, data: bytes) -> bytes:
    start = _at(rng, data)
    return data[:start] + data[start + int(rng.integers(1, 64)) :]


def _twice(rng: Random, data: bytes) -> bytes:
    start, to = _at(rng, data), _at(rng, data)
    return data[:to] + data[start : start + int(rng.integers(1, 400))] + data[to:]


def _spliced(rng: Random, data: bytes) -> bytes:
    other = any_picture(rng)
    return data[: _at(rng, data)] + other[_at(rng, other) :]


def _filled(rng: Random, data: bytes) -> bytes:
    at = _at(rng, data)
    filling = bytes([int(rng.choice([0, 255, 1]))]) * int(rng.choice([10, 1000, 30_000]))
    return data[:at] + filling + data[at:]


def _longer(rng: Random, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 200)))


_DAMAGE: tuple[Callable[[Random, bytes], bytes], ...] = (
    _flipped, _cut, _header_number, _header_number, _without, _twice, _spliced, _filled, _longer,
)  # fmt: skip


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, so that it is read further."""
    changed, at = bytearray(data), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(changed)
