"""Files at the edge of the program: atomic writes, checksums, and pictures decoded with care.

Pictures are recognised by content, never by suffix. The size in the header is checked before a
pixel is decoded, so that a small file cannot fill the memory, and a truncated file is an error:
OpenCV would silently fill the missing rows with grey.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unseg.utils.errors import UserError

MAX_PIXELS = 178_956_970
"""Largest picture read by default, and at all: Pillow itself refuses to open a larger one."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
"""Formats that are read; of a phone's JPEG with a second picture behind (MPO) the first."""

_ORIENTATION_TAG = 0x0112
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """An open file that takes its name only when it is complete and on the disk.

    Args:
        path: final name; an existing file is replaced. Its folder must exist.
        mode: "wb", or "w" for UTF-8 text.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(6)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise _write_error(path, error) from None
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise _write_error(path, error) from None
        raise
    _sync_folder(path.parent)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    with atomic_write(path) as file:
        file.write(data)


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _read_error(Path(path), error) from None


def resolve_inside(root: str | Path, relative: str | Path) -> Path:
    """The path of `relative` below `root`.

    Raises:
        UserError: it is absolute, climbs with `..`, or leaves `root` through a symbolic link.
    """
    text = str(relative)
    parts = PurePosixPath(text).parts + PureWindowsPath(text).parts
    if "\0" in text or Path(text).is_absolute() or PureWindowsPath(text).drive or ".." in parts:
        raise UserError(f"{text!r}: must be a path below {root}, without '..'")
    path = Path(root) / text
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f"{text!r}: leads out of {root} through a symbolic link")
    return path


def image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a picture once upright, from its header alone."""
    path = Path(path)
    with _opened(path, _existing(path), max_pixels) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_rgb(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, upright; grey is repeated, transparency dropped.

    Raises:
        UserError: missing, not a picture of `FORMATS`, animated, damaged, or above `max_pixels`.
    """
    pixels = _read(Path(path), max_pixels, colour=True)
    return np.ascontiguousarray(pixels)


def read_grey(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (H, W) uint8 brightness, upright: the reader of masks stored as pictures.

    A palette picture gives the brightness of its colours; `read_labels` gives its indices.
    """
    return np.ascontiguousarray(_read(Path(path), max_pixels, colour=False))


def read_labels(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A label picture as (H, W) or (H, W, 3) of its stored values: palette indices, 16-bit ids.

    Returns:
        uint8, uint16 or int32, upright. One-bit pictures give 0 and 1.
    """
    path = Path(path)
    with _opened(path, _bytes(path), max_pixels) as image, _decoding(path):
        image = ImageOps.exif_transpose(image)
        image.load()
        if image.mode in ("LA", "RGBA"):
            image = image.convert(image.mode[:-1])
        values = np.asarray(image)
    return np.ascontiguousarray(values.astype(np.uint8) if values.dtype == bool else values)


def _read(path: Path, max_pixels: int, *, colour: bool) -> np.ndarray:
    data = _bytes(path)
    with _opened(path, data, max_pixels) as image, _decoding(path):
        if image.format in ("JPEG", "MPO", "PNG") and image.mode != "CMYK":
            _check_complete(path, data, image.format)
            orientation = _orientation(image)
            kind = cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE
            pixels = cv2.imdecode(
                np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION
            )
            if pixels is None:
                raise UserError(f"{path}: damaged {image.format} file; restore or drop it")
            if colour:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            return _turn_upright(pixels, orientation)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            # Pillow's own conversion clips 16-bit values at 255 and so loses the picture.
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        elif upright.mode in ("I", "F"):
            fault = f"{path}: pixels of 32 bits have no agreed range; convert it to an 8-bit PNG"
            raise UserError(fault)
        return np.asarray(upright.convert("RGB" if colour else "L"))


def _turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation (1 to 8) of (H, W) or (H, W, 3) pixels."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where absent or senseless."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return 1  # Pillow would decode the whole file to look for a chunk behind the pixels.
    if image.format == "TIFF":
        return 1  # Pillow turns TIFF itself, its size included.
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block must not cost the picture
        return 1
    return value if value in range(1, 9) else 1


@contextlib.contextmanager
def _opened(path: Path, source: bytes | Path, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read and judged, its pixels not decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise UserError(f"{path}: has more than {max_pixels} pixels; make it smaller") from None
    except UnidentifiedImageError:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        fault = "empty file" if size == 0 else f"not a picture of {', '.join(FORMATS)}"
        raise UserError(f"{path}: {fault}; convert it to PNG or leave it out") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged(path, error) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            found = f"{width} x {height} pixels, more than {max_pixels}"
            raise UserError(f"{path}: has {found}; make it smaller")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{path}: holds several frames or pages; give one picture a file")
        yield image


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, cv2.error) as error:
        raise _damaged(path, error) from None


def _check_complete(path: Path, data: bytes, kind: str) -> None:
    """Refuse a file whose end is missing, which OpenCV would fill silently."""
    complete = _png_is_complete(data) if kind == "PNG" else _jpeg_is_complete(data)
    if not complete:
        raise UserError(f"{path}: truncated {kind} file; restore or drop it")


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


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _read_error(path, error) from None


def _existing(path: Path) -> Path:
    if not path.is_file():
        error = IsADirectoryError if path.is_dir() else FileNotFoundError
        raise _read_error(path, error())
    return path


def _read_error(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: is a folder, not a file")
    return UserError(f"{path}: cannot be read: {error.strerror or error}")


def _write_error(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: cannot be written: the folder {path.parent} does not exist")
    remedy = "; free some space and run again" if error.errno in _FULL_DISK else ""
    return UserError(f"{path}: cannot be written: {error.strerror or error}{remedy}")


def _damaged(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: damaged picture ({reason}); restore or drop it")


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the file system can promise it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
