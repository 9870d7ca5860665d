"""Pictures as the bytes of a file: PNG and TIFF of any of our pixel types, BMP, WebP, JPEG.

No installed library writes all of them: OpenCV has no profiles and no grey with alpha, Pillow no
16-bit colour. OpenCV compresses where it can, being the fastest.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from unseg.io.pictures import OutputFormat, Picture
from unseg.utils.errors import UserError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
_LEVEL = 6


def encode_picture(picture: Picture, format: OutputFormat = "PNG", *, quality: int = 95) -> bytes:
    """The bytes of a picture's file.

    Args:
        picture: what to write; the colour profile is embedded.
        format: all but "JPEG" are lossless.
        quality: of a JPEG, 1 to 100; it is written without chroma subsampling.

    Raises:
        UserError: the format cannot hold the picture (16 bits, alpha or a profile).
    """
    pixels = picture.stacked()
    if format == "PNG":
        return png_bytes(pixels, icc=picture.icc)
    is_deep_grey_alpha = pixels.shape[2] == 2 and picture.max_value > 255
    if format == "TIFF" and not is_deep_grey_alpha:
        return tiff_bytes(pixels, icc=picture.icc)
    lacks = [
        what
        for what, is_there in (
            ("16 bits", picture.max_value > 255),
            ("transparency", picture.alpha is not None and format != "WEBP"),
            ("a colour profile", picture.icc is not None and format == "BMP"),
        )
        if is_there
    ]
    if lacks:
        raise UserError(f"{format} cannot hold {' and '.join(lacks)}; write PNG instead")
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    options = {"icc_profile": picture.icc} if picture.icc else {}
    if format == "JPEG":
        image.save(buffer, "JPEG", quality=quality, subsampling=0, **options)
    elif format == "WEBP":
        image.save(buffer, "WEBP", lossless=True, exact=True, **options)
    else:
        image.save(buffer, "BMP")
    return buffer.getvalue()


def png_bytes(pixels: np.ndarray, *, icc: bytes | None = None) -> bytes:
    """A PNG file.

    Args:
        pixels: (H, W, C) uint8 or uint16; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA.
        icc: colour profile to embed.
    """
    channels = pixels.shape[2]
    if channels == 2:
        data = _own_png(pixels)
    else:
        swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(channels)
        reverse = pixels[:, :, ::-1]
        if channels == 3 and reverse.flags.c_contiguous:  # in OpenCV's order already
            ordered = reverse
        else:
            ordered = pixels if swap is None else cv2.cvtColor(pixels, swap)
        is_written, buffer = cv2.imencode(".png", ordered)
        if not is_written:
            raise RuntimeError(f"OpenCV wrote no PNG of {pixels.shape} {pixels.dtype}")
        data = buffer.tobytes()
    if icc:
        profile = _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc, _LEVEL))
        header = 8 + 25  # signature and IHDR; the profile has to precede the pixels
        data = data[:header] + profile + data[header:]
    return data


def tiff_bytes(pixels: np.ndarray, *, icc: bytes | None = None) -> bytes:
    """A TIFF file: one deflated strip, little endian. Arguments as for `png_bytes`."""
    height, width, channels = pixels.shape
    bits = pixels.dtype.itemsize * 8
    strip = zlib.compress(pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), _LEVEL)
    has_alpha = channels in (2, 4)
    entries: list[tuple[int, int, bytes]] = [
        (256, 4, struct.pack("<I", width)),
        (257, 4, struct.pack("<I", height)),
        (258, 3, struct.pack(f"<{channels}H", *[bits] * channels)),
        (259, 3, struct.pack("<H", 8)),  # deflate
        (262, 3, struct.pack("<H", 2 if channels >= 3 else 1)),  # RGB, or 0 is black
        (273, 4, struct.pack("<I", 8)),  # the strip follows the file's header
        (277, 3, struct.pack("<H", channels)),
        (278, 4, struct.pack("<I", height)),
        (279, 4, struct.pack("<I", len(strip))),
        (284, 3, struct.pack("<H", 1)),  # channels interleaved
    ]
    if has_alpha:
        entries.append((338, 3, struct.pack("<H", 2)))  # not premultiplied
    entries.append((339, 3, struct.pack(f"<{channels}H", *[1] * channels)))  # unsigned
    if icc:
        entries.append((34675, 7, icc))
    strip += b"\0" * (len(strip) % 2)
    directory_at = 8 + len(strip)
    extra_at = directory_at + 2 + 12 * len(entries) + 4
    return (
        struct.pack("<2sHI", b"II", 42, directory_at)
        + strip
        + _directory(entries, extra_at=extra_at)
    )


def _directory(entries: list[tuple[int, int, bytes]], *, extra_at: int) -> bytes:
    """The directory of a TIFF file, followed by the values that do not fit into their entry."""
    item_size = {3: 2, 4: 4, 7: 1}
    table, extra = struct.pack("<H", len(entries)), b""
    for tag, kind, value in entries:
        if len(value) <= 4:
            content = value.ljust(4, b"\0")
        else:
            content = struct.pack("<I", extra_at + len(extra))
            extra += value + b"\0" * (len(value) % 2)
        table += struct.pack("<HHI", tag, kind, len(value) // item_size[kind]) + content
    return table + struct.pack("<I", 0) + extra


def _own_png(pixels: np.ndarray) -> bytes:
    """A PNG with every row stored as its difference to the row above (filter type 2)."""
    height, width, channels = pixels.shape
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.frombuffer(big_endian.tobytes(), np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    filtered[1:, 1:] = rows[1:] - rows[:-1]
    bits = pixels.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", width, height, bits, _PNG_COLOUR_TYPE[channels], 0, 0, 0)
    return (
        _PNG_SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), _LEVEL))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
