"""Small pictures of every format and mode, as files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

Random = np.random.Generator

_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "LAB", "F"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("1", "L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
    "MPO": ("RGB",),
}
_TIFF_CODES = (None, "tiff_lzw", "tiff_deflate", "packbits")


def any_picture(rng: Random) -> bytes:
    """The file of a random picture."""
    makers: list[Callable[[Random], bytes]] = [_by_pillow] * 6 + [_deep_colour, _deep_ppm, _raw_png]
    return makers[int(rng.integers(len(makers)))](rng)


def _size(rng: Random) -> tuple[int, int]:
    height, width = rng.integers(1, 25, 2)
    return int(height), int(width)


def _values(rng: Random, *shape: int, top: int = 256) -> np.ndarray:
    """Noise, or one value, or a ramp."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, top, shape)
    if kind == 1:
        return np.full(shape, rng.integers(0, top))
    return np.arange(np.prod(shape)).reshape(shape) * 7 % top


def _by_pillow(rng: Random) -> bytes:
    form = str(rng.choice(list(_MODES)))
    mode = str(rng.choice(_MODES[form]))
    image = _image(rng, mode)
    options: dict[str, Any] = {}
    if form in ("PNG", "JPEG", "TIFF", "WEBP", "MPO") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        options["exif"] = exif
    if form in ("PNG", "JPEG", "TIFF", "WEBP") and rng.random() < 0.2:
        options["icc_profile"] = _ICC
    if form == "JPEG":
        options |= {"progressive": bool(rng.integers(2)), "quality": int(rng.integers(1, 101))}
    if form == "WEBP":
        options["lossless"] = bool(rng.integers(2))
    if form == "PNG" and mode in ("L", "P", "RGB", "1", "I;16") and rng.random() < 0.3:
        options["transparency"] = (1, 2, 3) if mode == "RGB" else 1
    if form == "TIFF":
        # Pillow crashes where these codes do not fit the mode.
        extra = {"1": ("group4",), "L": ("jpeg",), "RGB": ("jpeg",)}.get(mode, ())
        codes = (*_TIFF_CODES, *extra)
        options["compression"] = codes[int(rng.integers(len(codes)))]
    if form in ("PNG", "GIF", "WEBP", "TIFF", "MPO") and rng.random() < 0.1:
        options |= {"save_all": True, "append_images": [image.copy()]}
    return _saved(image, form, options)


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    """The file; without the options that this mode does not take."""
    for tried in (options, {}):
        buffer = io.BytesIO()
        try:
            image.save(buffer, form, **tried)
        except (OSError, ValueError, KeyError, TypeError, SystemError, RuntimeError):
            continue
        return buffer.getvalue()
    return b""


def _image(rng: Random, mode: str) -> Image.Image:
    height, width = _size(rng)
    if mode in ("I;16", "I"):
        values = _values(rng, height, width, top=65536)
        return Image.fromarray(values.astype(np.uint16)).convert(mode)
    if mode == "F":
        return Image.fromarray(_values(rng, height, width).astype(np.float32))
    colour = Image.fromarray(_values(rng, height, width, 3).astype(np.uint8))
    if mode == "LAB":
        return Image.frombytes("LAB", colour.size, colour.tobytes())
    if mode in ("RGBA", "LA"):
        colour.putalpha(Image.fromarray(_values(rng, height, width).astype(np.uint8)))
    return colour.convert(mode)


def _deep_colour(rng: Random) -> bytes:
    values = _values(rng, *_size(rng), int(rng.integers(3, 5)), top=65536).astype(np.uint16)
    return cv2.imencode(str(rng.choice([".png", ".tiff"])), values)[1].tobytes()


def _deep_ppm(rng: Random) -> bytes:
    height, width = _size(rng)
    top = int(rng.choice([1, 100, 255, 256, 1023, 65535]))
    kind = int(rng.integers(1, 7))
    values = _values(rng, height, width * (3 if kind in (3, 6) else 1), top=top + 1)
    header = f"P{kind}\n# words\n{width} {height}\n" + ("" if kind in (1, 4) else f"{top}\n")
    if kind < 4:
        return header.encode() + b" ".join(b"%d" % value for value in values.ravel() % (top + 1))
    return header.encode() + values.astype(">u2" if top > 255 else "u1").tobytes()


def _raw_png(rng: Random) -> bytes:
    """A PNG with any bits, colour type, tRNS, interlacing and rows."""
    height, width = _size(rng)
    bits, colour = int(rng.choice([1, 2, 4, 8, 16])), int(rng.choice([0, 2, 3, 4, 6]))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = -(-width * bits * channels // 8)
    rows = b"".join(bytes([int(rng.integers(5))]) + rng.bytes(row) for _ in range(height))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    if colour == 3:
        parts.append((b"PLTE", rng.bytes(3 << bits if bits < 8 else 768)))
    if rng.random() < 0.5:
        parts.append((b"tRNS", rng.bytes(int(rng.choice([2, 6, 16])))))
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
