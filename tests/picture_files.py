"""Files that break one rule of picture formats each, as small as they can be."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    length, checksum = struct.pack(">I", len(content)), zlib.crc32(kind + content)
    return length + kind + content + struct.pack(">I", checksum)


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes, *before: bytes, end: bytes = b""
) -> bytes:
    """A PNG of these rows (each behind its filter byte), with chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + chunk(b"IEND", b"") + end


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    """Random colours."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def directory(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF directory of (tag, type, count, value or position)."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following)


def tiff(entries: list[tuple[int, int, int, int]], content: bytes = b"") -> bytes:
    """A TIFF file: the content at position 8, then the directory."""
    return struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + directory(entries)


def grey_tiff(width: int, height: int, bits: int, content: bytes, **tags: int) -> bytes:
    """A grey TIFF in one strip; `tags` as t258=8."""
    plain = {
        256: width, 257: height, 258: bits, 259: 1, 262: 1,
        273: 8, 277: 1, 278: height, 279: len(content),
    }  # fmt: skip
    plain |= {int(name[1:]): value for name, value in tags.items()}
    return tiff([(tag, 4, 1, value) for tag, value in sorted(plain.items())], content)


def many_directories(count: int) -> bytes:
    """A TIFF of that many pages of one pixel."""
    content = grey_tiff(1, 1, 8, b"\x80\0")
    tags = content[content.index(struct.pack("<HHII", 256, 4, 1, 1)) - 2 : -4]
    size = len(tags) + 4
    pages = [tags + struct.pack("<I", 8 + size * (i + 1)) for i in range(count)]
    pages[-1] = tags + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8) + b"".join(pages)


def greedy_tags(count: int, length: int) -> bytes:
    """A block of tags that all name the same bytes: its values are `count` times its size."""
    position = 8 + 2 + 12 * count + 4
    entries = [(1000 + i, 7, length, position) for i in range(count)]
    return struct.pack("<2sHI", b"II", 42, 8) + directory(entries) + b"\1" * length


def jpeg_with(marker: int, content: bytes) -> bytes:
    """A JPEG with a segment of its own at the start."""
    plain = saved(scene(16, 16), "JPEG")
    return plain[:2] + struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content + plain[2:]


def resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def wide_webp() -> bytes:
    """A WebP file whose header says 16 million pixels squared."""
    content = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xfe\xff\xff" * 2
    return b"RIFF" + struct.pack("<I", len(content)) + content
