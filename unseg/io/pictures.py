"""Pictures at full fidelity: what a file holds, so that it can be written again without loss.

`decode.read_rgb` gives 8-bit RGB, enough for training. Here 16 bits, one channel, alpha and the
colour profile survive; what no output can keep is converted and noted, or refused by name.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from unseg.io.decode import (
    MAX_PIXELS,
    PROFILE_FAULT,
    REFUSED,
    PixelRows,
    decoding,
    opened,
    orientation_of,
    turn_upright,
    values_of,
)
from unseg.io.deep import deep_pixels, netpbm_pixels
from unseg.io.files import FileContent, read_file
from unseg.io.jpeg_end import check_jpeg_end
from unseg.io.suffixes import FORMAT_SUFFIXES
from unseg.utils.errors import UserError

OutputFormat = Literal["PNG", "TIFF", "BMP", "WEBP", "JPEG"]

_TIFF_BITS_TAG = 258
_DIRECT_MODES = ("L", "LA", "RGB", "RGBA")
_ONE_BIT = "1-bit picture converted to 8-bit grey"
_METADATA = {
    "exif": "EXIF",
    "Raw profile type exif": "EXIF",
    "xmp": "XMP",
    "XML:com.adobe.xmp": "XMP",
    "photoshop": "Photoshop data",
    "comment": "comment",
}
_USUAL_GAMMA = 0.45455


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


@contextlib.contextmanager
def read_back(file: FileContent) -> Iterator[np.ndarray | PixelRows]:
    """The pixels that `read_picture` gives of a file, by rows, for as long as the context lasts.

    An 8-bit PNG without alpha, the usual output, is decoded once and never copied as a whole.

    Raises:
        UserError: as `read_picture`.
    """
    with opened(file, MAX_PIXELS) as image:
        if _is_plain_png(image, file.data):
            with decoding(file.path):
                image.load()
            yield PixelRows(image)
            return
    yield read_picture(file).pixels


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow's values are the picture's: grey or RGB of 8 bits, upright."""
    is_8_bit = image.format == "PNG" and image.mode in ("L", "RGB") and _bits(image, data) == 8
    return is_8_bit and "transparency" not in image.info and orientation_of(image) == 1


def _decode(image: Image.Image, file: FileContent) -> Picture:
    data = file.data
    notes: list[str] = []
    if image.format == "MPO":
        notes.append("took the first picture of a multi-picture JPEG")
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    icc = image.info.get("icc_profile") or None
    is_deep = _bits(image, data) == 16
    # Pillow turns TIFF by itself while it loads, its size included; the turn is read before.
    orientation = orientation_of(image)
    if file_format == "PPM":
        pixels, mode = _netpbm(image, data, notes)
    else:
        image.load()  # a truncated file ends here, even where OpenCV decodes it below
        if file_format == "JPEG":
            check_jpeg_end(image, data, str(file.path))
        if is_deep:
            pixels, mode = deep_pixels(image, data, str(file.path))
        else:
            pixels, mode = _converted(image, data, str(file.path), icc, notes)
        if mode == "CMYK":
            icc = None  # it described the inks
    if not (file_format == "TIFF" and not is_deep):
        pixels = turn_upright(pixels, orientation)
    notes += _left_out(image, icc)
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


def _netpbm(image: Image.Image, data: bytes, notes: list[str]) -> tuple[np.ndarray, str]:
    if image.mode == "1":
        notes.append(_ONE_BIT)
    pixels = netpbm_pixels(data)
    if pixels.dtype == np.uint8:
        return pixels, image.mode
    return pixels, "I;16" if pixels.shape[2] == 1 else "RGB;16"


def _left_out(image: Image.Image, icc: bytes | None) -> list[str]:
    """What no output keeps, or not every reader takes."""
    kinds = {kind for name, kind in _METADATA.items() if image.info.get(name)}
    gamma = image.info.get("gamma", _USUAL_GAMMA)
    if abs(gamma - _USUAL_GAMMA) > 0.01:
        kinds.add(f"gamma {gamma:g}")
    notes = [f"left out: {', '.join(sorted(kinds))}"] if kinds else []
    stored = image.info.get("icc_profile")
    if stored and icc is None:
        notes.append("left out: the colour profile of the inks")
    if image.info.get(PROFILE_FAULT):
        notes.append(f"left out: a colour profile {image.info[PROFILE_FAULT]}")
    if icc and len(icc) > PngImagePlugin.MAX_TEXT_CHUNK:
        notes.append(f"kept a colour profile of {len(icc):,} bytes, which not every reader takes")
    return notes


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a channel, from the header."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS_TAG, (1,))  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode.startswith("I;16") or image.mode == "I" else 8


def _converted(
    image: Image.Image, data: bytes, name: str, icc: bytes | None, notes: list[str]
) -> tuple[np.ndarray, str]:
    """(H, W, C) uint8 pixels of a loaded picture, and the name of its stored mode."""
    mode, clear = image.mode, image.info.get("transparency")
    if mode in ("1", "L") and image.format == "PNG" and clear is not None:
        notes.append("transparent grey converted to an alpha channel")
        grey = np.asarray(image.convert("L"))
        steps = (1 << data[24]) - 1
        level = (
            clear if mode == "1" else (clear & steps) * 255 // steps
        )  # the low bits (PNG 11.3.1)
        return np.dstack([grey, np.where(grey == level, np.uint8(0), np.uint8(255))]), mode
    return values_of(_convert(image, name, clear, icc, notes)), mode


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
        notes.append(_ONE_BIT)
        return image.convert("L")
    if mode == "CMYK":
        notes.append("CMYK converted to RGB")
        return _cmyk_to_rgb(image, icc)
    if mode == "RGB" and transparency is not None:
        notes.append("transparent colour converted to an alpha channel")
        return image.convert("RGBA")
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
