"""Whether a JPEG has the data of all of its blocks; its decoder fills the rest in silence."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from unseg.utils.errors import UserError

_END_OF_DATA = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_SCAN, _END = 0xDA, 0xD9
_STRIP = 256
"""Rows that are compared at a time."""
_NOISE = bytes(np.random.default_rng(0).integers(0, 255, 64, np.uint8))
"""Bytes below 255, which end no data."""


def check_jpeg_end(image: Image.Image, data: bytes, name: str) -> None:
    """Refuse a picture whose data ends before its pixels.

    The decoder then repeats the last mean. So only where the last block is flat the picture is
    decoded again with noise behind its data: a whole picture does not read it, and stays alike.

    Args:
        image: the picture, loaded.
        data: its file.
        name: of the file, for messages.

    Raises:
        UserError: the picture is not whole.
    """
    width, height = image.size
    # Without the first row and column of the block, which colours of its neighbours may touch.
    corner = np.asarray(image.crop(((width - 1) // 8 * 8, (height - 1) // 8 * 8, width, height)))
    corner = corner[corner.shape[0] > 1 :, corner.shape[1] > 1 :]
    if (corner != corner[-1, -1]).any():
        return
    with Image.open(io.BytesIO(_with_noise(data)), formats=("JPEG",)) as again:
        again.load()
        strips = ((0, top, width, min(top + _STRIP, height)) for top in range(0, height, _STRIP))
        is_whole = all(
            np.array_equal(np.asarray(image.crop(box)), np.asarray(again.crop(box)))
            for box in strips
        )
    if not is_whole:
        raise UserError(f"{name}: truncated JPEG file; restore or drop it")


def _with_noise(data: bytes) -> bytes:
    """The file with noise at the end of the data of each scan."""
    parts, position, taken = [], 2, 0
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        if marker == _END:
            break
        if marker in (0, 0xFF):
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN:
            end = _END_OF_DATA.search(data, position)
            position = len(data) if end is None else end.start()
            parts += [data[taken:position], _NOISE]
            taken = position
    return b"".join([*parts, data[taken:]])
