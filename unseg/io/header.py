"""The header of a picture file, judged by its bytes before a library opens it.

A library believes a header: it makes room for the pixels that it promises, walks every directory,
reads every value. Here the kind, the size and the steps are bounded first, and a file that is too
short for its own pixels is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unseg.io.kinds import FORMATS, picture_format
from unseg.io.tags import Directory, Take, check_block, first_directory
from unseg.utils.errors import UserError

MAX_STEPS = 1_000_000
"""Chunks, blocks and markers of a file; a whole picture of the largest size has fewer."""

_MAX_EXIF = 8 << 20
_DEFLATE, _LZW = 1040, 4096
"""Most bytes that a byte of these codes stands for."""
_TIFF_RATIOS = {1: 1, 5: _LZW, 6: 256, 7: 256, 8: _DEFLATE, 32773: 128, 32946: _DEFLATE}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _KIND, _OFFSETS = 256, 257, 258, 259, 262, 273
_SAMPLES, _ROWS, _COUNTS, _PLANES = 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_TAGS = frozenset(
    (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _KIND, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANES)
    + (_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS)
)
_SPARE_TILE = 64 << 20
_NETPBM = re.compile(
    rb"P([1-6])((?:\s|#[^\n\r]*[\n\r])+)(\d{1,9})((?:\s|#[^\n\r]*[\n\r])+)(\d{1,9})"
)


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say.

    Attributes:
        format: Pillow's name of the format.
        width: columns as stored.
        height: rows as stored.
        needed: bytes that the pixels take at least in this file; 0 where that is not known.
        left: bytes of the file that can hold them.
        has_more: whether other pages follow.
        profile: (start, end) of a PNG's colour profile chunk, or None.
    """

    format: str
    width: int
    height: int
    needed: int = 0
    left: int = 0
    has_more: bool = False
    profile: tuple[int, int] | None = None


def judged(file: IO[bytes], path: Path, max_pixels: int) -> Header:
    """The header of a picture, refused where opening it would cost more than its pixels.

    Raises:
        UserError: not one of `FORMATS`, more pixels than `max_pixels`, several pages, fewer bytes
            than the pixels take, or a structure without end.
    """
    size = file.seek(0, 2)

    def take(position: int, count: int) -> bytes:
        file.seek(position)
        return file.read(count)

    start = take(0, 64)
    format = picture_format(start)
    if format is None:
        if size == 0:
            raise UserError(f"{path}: empty file; restore or drop it")
        fault = f"not a picture of {', '.join(FORMATS)}"
        raise UserError(f"{path}: {fault}; convert it to PNG or leave it out")
    try:
        header = _READERS[format](take, size)
    except (ValueError, IndexError, struct.error) as error:
        reason = str(error) if isinstance(error, ValueError) else "the header is cut off"
        raise UserError(f"{path}: damaged picture ({reason}); restore or drop it") from None
    if header.width * header.height > max_pixels:
        found = f"{header.width} x {header.height} pixels, more than {max_pixels}"
        raise UserError(f"{path}: has {found}; make it smaller")
    if header.has_more:
        raise UserError(f"{path}: holds several frames or pages; give one picture a file")
    if header.needed > header.left:
        raise UserError(
            f"{path}: truncated {format} file: {header.left:,} bytes cannot hold "
            f"{header.width} x {header.height} pixels; restore or drop it"
        )
    return header


def _png(take: Take, size: int) -> Header:
    position, profile = 8, None
    if take(position + 4, 4) != b"IHDR":
        raise ValueError("no IHDR chunk at the start")
    width, height, bits, colour = struct.unpack(">IIBB", take(position + 8, 10))
    for _ in range(MAX_STEPS):
        length, kind = struct.unpack(">I4s", take(position, 8))
        if kind == b"IDAT":
            break
        if kind == b"iCCP":
            profile = (position, position + 12 + length)
        position += 12 + length
    else:
        raise ValueError(f"more than {MAX_STEPS} chunks before the pixels")
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    raw = height * (1 + -(-width * bits * channels // 8))
    return Header("PNG", width, height, -(-raw // _DEFLATE), size - position, profile=profile)


def _jpeg(take: Take, size: int) -> Header:
    frame: tuple[int, bytes] | None = None
    exif, position = b"Exif\0\0", 2
    for _ in range(MAX_STEPS):
        mark = take(position, 4)
        if len(mark) < 2:
            raise ValueError("no pixels")
        marker = mark[1] if mark[0] == 0xFF else 0
        if marker in (0, 1, 0xFF, *range(0xD0, 0xDA)):  # junk, filling, marks without content
            position += 2 if marker == 1 or 0xD0 <= marker <= 0xD9 else 1
            continue
        length = int.from_bytes(mark[2:4], "big")
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker, take(position + 4, length - 2)
        elif marker == 0xE1 and take(position + 4, 6) == b"Exif\0\0":
            exif += take(position + 10, length - 8)
            if len(exif) > _MAX_EXIF:
                raise ValueError(f"an EXIF block of more than {_MAX_EXIF} bytes")
        elif marker == 0xE2 and take(position + 4, 4) == b"MPF\0":
            check_block(take(position + 8, length - 6))
        position += 2 + length
    else:
        raise ValueError(f"more than {MAX_STEPS} marks before the pixels")
    check_block(exif)
    if frame is None:
        raise ValueError("no size before the pixels")
    width, height, bits = _jpeg_frame(*frame)
    return Header("JPEG", width, height, bits // 8, size - position)


def _jpeg_frame(marker: int, content: bytes) -> tuple[int, int, int]:
    """(width, height, bits that the pixels take at least) of a frame's header."""
    height, width, count = struct.unpack(">HHB", content[1:6])
    factors = [(content[7 + 3 * i] >> 4, content[7 + 3 * i] & 15) for i in range(count)]
    if not factors or not all(min(pair) for pair in factors):
        raise ValueError("no components")
    largest = [max(pair[axis] for pair in factors) for axis in (0, 1)]
    blocks = 0
    for across, down in factors:
        columns = -(-width * across // (8 * largest[0]))
        blocks += columns * -(-height * down // (8 * largest[1]))
    # Huffman codes have a bit or more: one for the mean, in sequential files one for the rest.
    bits_a_block = 0 if marker > 0xC8 else 2 if marker in (0xC0, 0xC1) else 1
    return width, height, bits_a_block * blocks


def _gif(take: Take, size: int) -> Header:
    width, height, flags = struct.unpack("<HHB", take(6, 5))
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    frames = steps = 0
    while frames < 2 and steps < MAX_STEPS:
        steps += 1
        kind = take(position, 1)
        if kind == b",":
            frames += 1
            flags = take(position + 9, 1)[0]
            position += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        elif kind == b"!":
            position += 2
        elif kind in (b";", b""):
            break
        else:
            position += 1
            continue
        while (length := take(position, 1)) not in (b"", b"\0"):
            position += 1 + length[0]
            steps += 1
            if steps >= MAX_STEPS:
                break
        position += 1
    if steps >= MAX_STEPS:
        raise ValueError(f"more than {MAX_STEPS} blocks")
    return Header("GIF", width, height, width * height // _LZW, size, has_more=frames > 1)


def _bmp(take: Take, size: int) -> Header:
    offset, header = struct.unpack("<II", take(10, 8))
    if header == 12:
        width, height, _, bits = struct.unpack("<HHHH", take(18, 8))
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack("<iiHHI", take(18, 16))
    width, height = abs(width), abs(height)
    row = -(-width * bits // 32) * 4
    needed = row * (height - 1) if compression in (0, 3) else 0
    return Header("BMP", width, height, needed, size - offset)


def _webp(take: Take, size: int) -> Header:
    start = take(12, 18)
    kind = start[:4]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(start[at : at + 3], "little") for at in (12, 15))
    elif kind == b"VP8L":
        bits = int.from_bytes(start[9:13], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (v & 0x3FFF for v in struct.unpack("<HH", start[14:18]))
    else:
        raise ValueError("no picture chunk at the start")
    return Header("WEBP", width, height)


def _netpbm(take: Take, size: int) -> Header:
    found = _NETPBM.match(take(0, 1 << 16))
    if found is None:
        raise ValueError("no size at the start")
    kind, width, height = (int(found[group]) for group in (1, 3, 5))
    values = width * height * (3 if kind in (3, 6) else 1)
    needed = height * -(-width // 8) if kind == 4 else values
    return Header("PPM", width, height, needed, size - found.end())


def _tiff(take: Take, size: int) -> Header:
    directory = first_directory(take, size, _TAGS)
    tags = directory.values
    width, height = _one(directory, _WIDTH), _one(directory, _HEIGHT)
    samples = _one(directory, _SAMPLES, 1)
    bits = tags.get(_BITS, (1,))
    pixel = sum(bits) if len(bits) == samples else bits[0] * samples
    is_tiled = _TILE_OFFSETS in tags
    if is_tiled:
        across, down = _one(directory, _TILE_WIDTH), _one(directory, _TILE_HEIGHT)
    else:
        across, down = width, min(_one(directory, _ROWS, height), height)
    if not (across and down and width and height and pixel):
        raise ValueError("a size of 0")
    if across * down * pixel > 8 * (_SPARE_TILE + width * height * pixel):
        raise ValueError(f"tiles of {across} x {down} pixels")
    planes = samples if _one(directory, _PLANES, 1) == 2 else 1
    pieces = -(-width // across) * -(-height // down) * planes
    offsets = tags.get(_TILE_OFFSETS if is_tiled else _OFFSETS, ())
    if len(offsets) < pieces:
        raise ValueError(f"the data of {len(offsets)} of {pieces} parts")
    counts = tags.get(_TILE_COUNTS if is_tiled else _COUNTS)
    if counts is None or len(counts) < pieces:
        counts = tuple(size - at for at in offsets)  # old writers left them out
    found = list(zip(offsets, counts, strict=False))[:pieces]
    present = sum(max(0, min(count, size - at)) for at, count in found)
    rows = height if not is_tiled else down * -(-height // down)
    columns = width if not is_tiled else across * -(-width // across)
    raw = rows * -(-columns * pixel // 8)
    ratio = _TIFF_RATIOS.get(_one(directory, _COMPRESSION, 1), 0)
    is_subsampled = _one(directory, _KIND, 0) == 6
    needed = raw // (ratio * (6 if is_subsampled else 1)) if ratio else 0
    return Header("TIFF", width, height, needed, present, has_more=directory.following != 0)


def _one(directory: Directory, tag: int, default: int | None = None) -> int:
    values = directory.values.get(tag, ())
    if values:
        return values[0]
    if default is None:
        raise ValueError(f"no tag {tag}")
    return default


_READERS: dict[str, Callable[[Take, int], Header]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "GIF": _gif,
    "BMP": _bmp,
    "WEBP": _webp,
    "PPM": _netpbm,
    "TIFF": _tiff,
}
