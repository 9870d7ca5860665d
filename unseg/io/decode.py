"""The one gate that every picture passes, and the reader of 8-bit colour, brightness and labels.

Pictures are recognised by content, never by suffix. The size in the header is checked before a
pixel is decoded, so that a small file cannot fill the memory, and a truncated file is an error:
OpenCV would silently fill the missing rows with grey. `pictures` reads at full fidelity, through
the same gate.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from unseg.io.files import MAX_BYTES, FileContent, check_regular, read_error, read_file
from unseg.io.header import Header, judged
from unseg.io.tags import ORIENTATION_TAG, check_block
from unseg.utils.errors import UserError

MAX_PIXELS = 178_956_970
"""Largest picture read by default, and at all: Pillow itself refuses to open a larger one."""

_STRIP = 1 << 20
"""Pixels that Pillow hands out at a time."""

MAX_PROFILE = 16 << 20
"""Largest colour profile of a PNG that is kept, in bytes."""

PROFILE_FAULT = "unseg_profile_fault"
"""Entry of a picture's `info`: why its colour profile is missing there."""

REFUSED = (
    OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, struct.error, cv2.error,
)  # fmt: skip
"""What Pillow and OpenCV raise for a damaged file."""


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a picture once upright, from its header alone."""
    with opened(Path(path), max_pixels) as image:
        width, height = image.size
        return (width, height) if remaining_turn(image) >= 5 else (height, width)


def read_rgb(path: str | Path | FileContent, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, upright; grey is repeated, transparency dropped.

    Raises:
        UserError: missing, no picture of `kinds.FORMATS`, animated, damaged, above `max_pixels`.
    """
    return _read(read_file(path), max_pixels, colour=True)


def read_grey(path: str | Path | FileContent, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (H, W) uint8 brightness, upright: the reader of masks stored as pictures.

    A palette picture gives the brightness of its colours; `read_labels` gives its indices.
    """
    return _read(read_file(path), max_pixels, colour=False)


def read_labels(path: str | Path | FileContent, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A label picture as (H, W) or (H, W, 3) of its stored values: palette indices, 16-bit ids.

    Returns:
        uint8, uint16 or int32, upright. One-bit pictures give 0 and 1.
    """
    file = read_file(path)
    with opened(file, max_pixels) as image, decoding(file.path):
        turn = remaining_turn(image)
        image.load()
        if image.mode in ("LA", "RGBA"):
            image = image.convert(image.mode[:-1])
        values = turn_upright(np.asarray(image), turn)
    return np.ascontiguousarray(values.astype(np.uint8) if values.dtype == bool else values)


@contextlib.contextmanager
def opened(source: Path | FileContent, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read and judged, its pixels not decoded.

    Args:
        source: a file, or a path where the header is enough.
        max_pixels: larger pictures are refused.

    Raises:
        UserError: naming the file and the fault.
    """
    path = source.path if isinstance(source, FileContent) else source
    with _bytes_of(source, path) as file:
        header = judged(file, path, max_pixels)
        pillow_file, info = (file, {}) if header.profile is None else _small(file, header)
        pillow_file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(pillow_file, formats=(header.format,))
        except Image.DecompressionBombError:
            raise UserError(f"{path}: has more than {max_pixels} pixels; make it smaller") from None
        except UnidentifiedImageError:
            raise UserError(f"{path}: damaged {header.format} file; restore or drop it") from None
        except REFUSED as error:
            raise _damaged(path, error) from None
        with image:
            _check_opened(image, path, max_pixels)
            image.info.update(info)
            yield image


@contextlib.contextmanager
def _bytes_of(source: Path | FileContent, path: Path) -> Iterator[IO[bytes]]:
    if isinstance(source, FileContent):
        yield io.BytesIO(source.data)
        return
    try:
        check_regular(path, max_bytes=MAX_BYTES)
        file = path.open("rb")
    except OSError as error:
        raise read_error(path, error) from None
    with file:
        yield file


def _check_opened(image: Image.Image, path: Path, max_pixels: int) -> None:
    """Once more what the header promised, as the library has understood it."""
    width, height = image.size
    if width * height > max_pixels:
        found = f"{width} x {height} pixels, more than {max_pixels}"
        raise UserError(f"{path}: has {found}; make it smaller")
    with decoding(path):
        is_animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if is_animated:
        raise UserError(f"{path}: holds several frames or pages; give one picture a file")


def _small(file: IO[bytes], header: Header) -> tuple[IO[bytes], dict[str, Any]]:
    """A PNG that Pillow opens: without its profile where that is large; and what `info` lacks."""
    assert header.profile is not None
    start, end = header.profile
    file.seek(start)
    chunk = file.read(end - start)
    name, _, packed = chunk[8:-4].partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return file, {PROFILE_FAULT: "that is damaged"}  # Pillow leaves it out
    if len(profile) <= PngImagePlugin.MAX_TEXT_CHUNK:
        return file, {}
    file.seek(0)
    data = file.read()
    info: dict[str, Any] = {"icc_profile": profile}
    if not unpacking.eof:
        info = {PROFILE_FAULT: f"of more than {MAX_PROFILE:,} bytes"}
    return io.BytesIO(data[:start] + data[end:]), info


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises while its pixels are decoded into one line."""
    try:
        yield
    except UserError:
        raise
    except REFUSED as error:
        raise _damaged(path, error) from None


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of the stored pixels, 1 (upright) where absent or senseless."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1  # Pillow would decode the whole file to look for a chunk behind the pixels.
    try:
        check_block(_exif_of(image))
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block must not cost the picture
        return 1
    return value if value in range(1, 9) else 1


def _exif_of(image: Image.Image) -> bytes:
    text = image.info.get("Raw profile type exif")
    if isinstance(text, str):
        return bytes.fromhex("".join(text.split("\n")[3:]))
    block = image.info.get("exif", b"")
    return block if isinstance(block, bytes) else b""


def remaining_turn(image: Image.Image) -> int:
    """The orientation that remains to be undone: Pillow turns TIFF itself, its size included."""
    return 1 if image.format == "TIFF" else orientation_of(image)


class PixelRows:
    """Rows of a loaded picture, made into an array when asked for: it lies in memory once.

    Attributes:
        shape: (H, W, C).
        dtype: of the values.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        first = np.asarray(image.crop((0, 0, 1, 1)))
        self.dtype = first.dtype
        self.shape = (image.height, image.width, first.size)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """(n, W, C) values of a stretch of rows."""
        first, last, _ = rows.indices(self.shape[0])
        part = self._image
        if last - first < self.shape[0]:
            part = part.crop((0, first, self.shape[1], last))
        return np.asarray(part).reshape(last - first, *self.shape[1:])


def values_of(image: Image.Image) -> np.ndarray:
    """(H, W, C) values of a loaded picture, in strips: Pillow hands out copies of copies.

    The memory that it takes is the result's alone.
    """
    rows = PixelRows(image)
    height, width, _ = rows.shape
    step = max(_STRIP // width, 1)
    if height <= step:
        return rows[:]
    values = np.empty(rows.shape, rows.dtype)
    for top in range(0, height, step):
        values[top : top + step] = rows[top : top + step]
    return values


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8) on the first two axes; a view, not a copy."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _read(file: FileContent, max_pixels: int, *, colour: bool) -> np.ndarray:
    with opened(file, max_pixels) as image, decoding(file.path):
        turn = remaining_turn(image)
        if image.format in ("JPEG", "MPO", "PNG") and image.mode != "CMYK":
            pixels = _fast_pixels(file, image.format, colour=colour)
        else:
            pixels = _pillow_pixels(file.path, image, colour=colour)
    return np.ascontiguousarray(turn_upright(pixels, turn))


def _fast_pixels(file: FileContent, kind: str, *, colour: bool) -> np.ndarray:
    """(H, W, 3) or (H, W) uint8 pixels as stored, by OpenCV, which is faster than Pillow."""
    _check_complete(file, kind)
    flags = cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE
    coded = np.frombuffer(file.data, np.uint8)
    pixels = cv2.imdecode(coded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise UserError(f"{file.path}: damaged {kind} file; restore or drop it")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if colour else pixels


def _pillow_pixels(path: Path, image: Image.Image, *, colour: bool) -> np.ndarray:
    """The same of what OpenCV does not read, or not alike in all its versions."""
    image.load()
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255 and so loses the picture.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        fault = f"{path}: pixels of 32 bits have no agreed range; convert it to an 8-bit PNG"
        raise UserError(fault)
    return np.asarray(image.convert("RGB" if colour else "L"))


def _check_complete(file: FileContent, kind: str) -> None:
    """Refuse a file whose end is missing, which OpenCV would fill silently."""
    complete = _png_is_complete(file.data) if kind == "PNG" else _jpeg_is_complete(file.data)
    if not complete:
        raise UserError(f"{file.path}: truncated {kind} file; restore or drop it")


def _png_is_complete(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return False


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether an end marker follows the start of the pixels (a thumbnail has its own before)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) >= 0
        if marker == 0xFF:
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: damaged picture ({reason}); restore or drop it")
