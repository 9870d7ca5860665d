"""Pictures at full fidelity: what a file holds, so that it can be written again without loss.

`decode.read_rgb` gives 8-bit RGB, enough for training. Here 16 bits, one channel, alpha and the
colour profile survive; what no output can keep is converted and noted, or refused by name.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageCms

from unseg.io.decode import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    REFUSED,
    decoding,
    opened,
    orientation_of,
    turn_upright,
)
from unseg.io.files import FileContent, read_file
from unseg.io.suffixes import FORMAT_SUFFIXES
from unseg.utils.errors import UserError

OutputFormat = Literal["PNG", "TIFF", "BMP", "WEBP", "JPEG"]

_TIFF_BITS_TAG, _TIFF_PHOTOMETRIC_TAG = 258, 262
_PNG_GREY_ALPHA = 4
_CLASSIC_TIFF = 42
_DIRECT_MODES = ("L", "LA", "RGB", "RGBA")


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16 (full range of the type).
        alpha: (H, W) of the same type, or None. Colour under alpha 0 is kept as stored.
        icc: embedded colour profile, or None.
        mode: Pillow's name of the stored mode ("L", "P", "RGBA", "I;16", ...), or "LA;16",
            "RGB;16", "RGBA;16" for 16-bit colour, which Pillow has no name for.
        file_format: Pillow's name of the input's format ("PNG", "JPEG", ...).
        orientation: EXIF orientation of the stored pixels, 1 to 8; already undone here.
        notes: what had to be converted, for the manifest.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    mode: str = "RGB"
    file_format: str = "PNG"
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the pixels in the file, before turning."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def is_grey(self) -> bool:
        """Whether there is one channel."""
        return self.pixels.shape[2] == 1

    @property
    def max_value(self) -> int:
        """255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self) -> np.ndarray:
        """(H, W, 3) pixels of the same type, grey repeated."""
        return self.pixels if not self.is_grey else np.repeat(self.pixels, 3, axis=2)

    def rgb8(self) -> np.ndarray:
        """(H, W, 3) uint8 pixels, 16-bit values rounded."""
        pixels = self.rgb()
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return pixels

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        """The same picture with other pixels of the same shape and type."""
        if pixels.shape != self.pixels.shape or pixels.dtype != self.pixels.dtype:
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, "
                f"the picture's {self.pixels.dtype} {self.pixels.shape}"
            )
        return replace(self, pixels=pixels)

    def stacked(self) -> np.ndarray:
        """(H, W, C) with alpha as the last channel: C is 1, 2, 3 or 4."""
        if self.alpha is None:
            return self.pixels
        return np.concatenate([self.pixels, self.alpha[..., None]], axis=2)


def read_picture(path: str | Path | FileContent, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture by content, upright, with its alpha and colour profile.

    Other metadata (EXIF, GPS position, comments) is not carried over: the tag that turns the
    picture would be wrong, and a privacy tool should not publish the rest.

    Args:
        path: the file, or what was read of it already.
        max_pixels: larger pictures are refused.

    Raises:
        UserError: naming the file and the fault: missing, empty, not a picture, truncated, more
            than `max_pixels`, several frames or pages, a pixel type that cannot be kept.
    """
    file = read_file(path)
    with opened(file, max_pixels) as image, decoding(file.path):
        picture = _decode(image, file)
    suffix = file.path.suffix.lower()
    if suffix and suffix not in FORMAT_SUFFIXES[picture.file_format]:
        note = f"is a {picture.file_format} file in spite of its suffix {file.path.suffix}"
        picture = replace(picture, notes=(note, *picture.notes))
    return picture


def _decode(image: Image.Image, file: FileContent) -> Picture:
    data, name = file.data, str(file.path)
    notes: list[str] = []
    if image.format == "MPO":
        notes.append("took the first picture of a multi-picture JPEG")
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    stored_mode, icc = image.mode, image.info.get("icc_profile") or None
    transparency = image.info.get("transparency")
    is_deep = _bits(image, data) == 16
    # Pillow turns TIFF by itself while it loads, its size included; the turn is read before.
    orientation = orientation_of(image)
    image.load()  # a truncated file ends here, even where OpenCV decodes it below
    if is_deep:
        pixels, mode = _deep_pixels(image, data, name)
    else:
        image, mode = _convert(image, name, transparency, icc, notes), stored_mode
        if stored_mode == "CMYK":
            icc = None  # it described the inks
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if not (file_format == "TIFF" and not is_deep):
        pixels = turn_upright(pixels, orientation)
    pixels = np.ascontiguousarray(pixels)
    has_alpha = pixels.shape[2] in (2, 4)
    return Picture(
        pixels=np.ascontiguousarray(pixels[:, :, :-1]) if has_alpha else pixels,
        alpha=np.ascontiguousarray(pixels[:, :, -1]) if has_alpha else None,
        icc=icc,
        mode=mode,
        file_format=file_format,
        orientation=orientation,
        notes=tuple(notes),
    )


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a channel, from the header."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS_TAG, (1,))  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode.startswith("I;16") or image.mode == "I" else 8


def _convert(
    image: Image.Image,
    name: str,
    transparency: object,
    icc: bytes | None,
    notes: list[str],
) -> Image.Image:
    """The picture in one of `_DIRECT_MODES`."""
    mode = image.mode
    if mode in ("P", "PA"):
        has_alpha = transparency is not None or mode == "PA"
        notes.append("palette converted to RGB" + ("A" if has_alpha else ""))
        return image.convert("RGBA" if has_alpha else "RGB")
    if mode == "1":
        notes.append("1-bit picture converted to 8-bit grey")
        return image.convert("L")
    if mode == "CMYK":
        notes.append("CMYK converted to RGB")
        return _cmyk_to_rgb(image, icc)
    if mode in ("L", "RGB") and transparency is not None:
        notes.append("transparent colour converted to an alpha channel")
        return image.convert("LA" if mode == "L" else "RGBA")
    if mode not in _DIRECT_MODES:
        raise UserError(f"{name}: pixels of type {mode} are not supported; convert it to PNG")
    return image


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """By the embedded profile where it works, else by the plain formula."""
    if icc:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, *REFUSED):
            pass  # an unusable profile: the formula is the best guess left
    return image.convert("RGB")


def _deep_pixels(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, str]:
    """(H, W, C) uint16 of a 16-bit PNG, TIFF or PGM, and the name of its mode."""
    if image.format == "TIFF":
        kind = image.tag_v2.get(_TIFF_PHOTOMETRIC_TAG)  # type: ignore[attr-defined]
        if kind not in (1, 2):
            raise UserError(
                f"{name}: 16-bit TIFF with photometric interpretation {kind} is not supported; "
                "convert it to 16-bit RGB or grey"
            )
        data = _as_if_upright(data, name)
    if image.mode.startswith("I") and image.format != "TIFF":
        return np.asarray(image).astype(np.uint16)[:, :, None], "I;16"
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise UserError(f"{name}: pixels of this 16-bit {image.format} file are not supported")
    if pixels.ndim == 2:
        return pixels[:, :, None], "I;16"
    if pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
        if image.format == "PNG" and data[25] == _PNG_GREY_ALPHA:
            return np.ascontiguousarray(pixels[:, :, [0, 3]]), "LA;16"
        return pixels, "RGBA;16"
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), "RGB;16"


def _as_if_upright(data: bytes, name: str) -> bytes:
    """The TIFF file with orientation 1: OpenCV undoes half of the turns, which differs by version.

    Walks the first directory of the file, entries of 12 bytes: tag, type, count, value.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    if int.from_bytes(data[2:4], order) != _CLASSIC_TIFF:
        raise UserError(f"{name}: 16-bit BigTIFF files are not supported; convert it to PNG")
    start = int.from_bytes(data[4:8], order)
    for entry in range(int.from_bytes(data[start : start + 2], order)):
        at = start + 2 + 12 * entry
        if int.from_bytes(data[at : at + 2], order) == ORIENTATION_TAG:
            return data[: at + 8] + (1).to_bytes(2, order) + data[at + 10 :]
    return data
