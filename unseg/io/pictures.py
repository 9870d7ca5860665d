"""Pictures at full fidelity: what a file holds, so that it can be written again without loss.

`utils.files.read_rgb` gives 8-bit RGB, enough for training. Here 16 bits, one channel, alpha and
the colour profile survive; what no output can keep is converted and noted, or refused by name.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from unseg.io.encode import png_bytes, tiff_bytes
from unseg.io.files import MAX_PIXELS
from unseg.io.suffixes import FORMAT_SUFFIXES
from unseg.utils.errors import UserError

OutputFormat = Literal["PNG", "TIFF", "BMP", "WEBP", "JPEG"]

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""Formats that are decoded; MPO, the JPEG of phones with a second picture behind, is a JPEG."""

_ORIENTATION_TAG = 0x0112
_TIFF_BITS_TAG, _TIFF_PHOTOMETRIC_TAG = 258, 262
_PNG_GREY_ALPHA = 4
_CLASSIC_TIFF = 42
_DIRECT_MODES = ("L", "LA", "RGB", "RGBA")
_REFUSED = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, cv2.error)


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
        lossless_format: the input's own format where it writes this picture without loss, or PNG.
        orientation: EXIF orientation of the stored pixels, 1 to 8; already undone here.
        notes: what had to be converted, for the manifest.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    mode: str = "RGB"
    file_format: str = "PNG"
    lossless_format: OutputFormat = "PNG"
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


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture by content, upright, with its alpha and colour profile.

    Other metadata (EXIF, GPS position, comments) is not carried over: the tag that turns the
    picture would be wrong, and a privacy tool should not publish the rest.

    Raises:
        UserError: naming the file and the fault: missing, empty, not a picture, truncated, more
            than `max_pixels`, several frames or pages, a pixel type that cannot be kept.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    picture = decode_picture(data, name=str(path), max_pixels=max_pixels)
    suffix = path.suffix.lower()
    if suffix and suffix not in FORMAT_SUFFIXES[picture.file_format]:
        note = f"is a {picture.file_format} file in spite of its suffix {path.suffix}"
        picture = replace(picture, notes=(note, *picture.notes))
    return picture


def decode_picture(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in a file's bytes; `name` names it in errors. See `read_picture`."""
    with _open(data, name) as image:
        width, height = image.size
        if width * height > max_pixels:
            found = f"{width} x {height} pixels, more than {max_pixels}"
            raise UserError(f"{name}: has {found}; raise max_pixels or make it smaller")
        notes: list[str] = []
        if image.format == "MPO":
            notes.append("took the first picture of a multi-picture JPEG")
        elif (frames := getattr(image, "n_frames", 1)) > 1:
            raise UserError(
                f"{name}: is animated or has several pages ({frames}); give one picture a file"
            )
        try:
            return _decode(image, data, name, notes)
        except UserError:
            raise
        except _REFUSED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name}: damaged picture ({reason}); restore or drop it") from None


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


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8) on the first two axes; a view, not a copy."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _open(data: bytes, name: str) -> Image.Image:
    """The picture with its header read, nothing decoded."""
    if not data:
        raise UserError(f"{name}: empty file; restore or drop it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"{name}: has more than {MAX_PIXELS} pixels; make it smaller") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise UserError(f"{name}: not a picture of {known}; convert it to PNG") from None
    except _REFUSED as error:
        raise UserError(f"{name}: damaged picture ({error}); restore or drop it") from None


def _decode(image: Image.Image, data: bytes, name: str, notes: list[str]) -> Picture:
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    stored_mode, icc = image.mode, image.info.get("icc_profile") or None
    transparency = image.info.get("transparency")
    is_deep = _bits(image, data) == 16
    # Pillow turns TIFF by itself while it loads, its size included; the turn is read before.
    orientation = _orientation(image)
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
    picture = Picture(
        pixels=np.ascontiguousarray(pixels[:, :, :-1]) if has_alpha else pixels,
        alpha=np.ascontiguousarray(pixels[:, :, -1]) if has_alpha else None,
        icc=icc,
        mode=mode,
        file_format=file_format,
        orientation=orientation,
        notes=tuple(notes),
    )
    return replace(picture, lossless_format=_lossless_format(picture, data))


def _lossless_format(picture: Picture, data: bytes) -> OutputFormat:
    if picture.file_format == "TIFF":
        return "TIFF"
    is_plain = picture.icc is None and picture.alpha is None
    if picture.file_format == "BMP" and is_plain and picture.max_value == 255:
        return "BMP"
    if picture.file_format == "WEBP" and b"VP8L" in data[12:4096]:
        return "WEBP"
    return "PNG"


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1  # `getexif` would decode the whole file to look behind the pixels
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _REFUSED:
        return 1  # a broken EXIF block must not cost the picture
    return value if value in range(1, 9) else 1


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
        except (ImageCms.PyCMSError, *_REFUSED):
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
        if int.from_bytes(data[at : at + 2], order) == _ORIENTATION_TAG:
            return data[: at + 8] + (1).to_bytes(2, order) + data[at + 10 :]
    return data
