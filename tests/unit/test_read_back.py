"""A written file is measured by rows, and by the pixels that a reader of the file sees."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from generate_cases import make_image
from PIL import Image

from unseg.io.decode import PixelRows
from unseg.io.files import FileContent
from unseg.io.pictures import read_back, read_picture
from unseg.protection.writing.budget_check import measure
from unseg.utils.errors import UserError


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = Image.fromarray(make_image(1, 40, 30))
EXIF = Image.Exif()
EXIF[274] = 6
DEEP = make_image(2, 9, 8).astype(np.uint16) * 257
LAZY = {"rgb": saved(RGB), "grey": saved(RGB.convert("L"))}
OTHERS = {
    "alpha": saved(RGB.convert("RGBA")),
    "palette": saved(RGB.convert("P")),
    "one bit": saved(RGB.convert("1")),
    "transparent colour": saved(RGB, transparency=RGB.getpixel((0, 0))),
    "transparent grey": saved(RGB.convert("L"), transparency=3),
    "16 bits": cv2.imencode(".png", DEEP)[1].tobytes(),
    "turned": saved(RGB, exif=EXIF),
    "jpeg": saved(RGB, "JPEG"),
    "webp": saved(RGB, "WEBP", lossless=True),
    "tiff": saved(RGB, "TIFF"),
}


@pytest.mark.parametrize("name", [*LAZY, *OTHERS])
def test_rows_of_a_file_are_those_of_its_picture(name):
    file = FileContent(Path("a.any"), {**LAZY, **OTHERS}[name])
    expected = read_picture(file).pixels
    with read_back(file) as rows:
        assert isinstance(rows, PixelRows) == (name in LAZY)
        assert (rows.shape, rows.dtype) == (expected.shape, expected.dtype)
        for part in (slice(None), slice(0, 7), slice(7, 900)):
            assert np.array_equal(rows[part], expected[part])


def test_a_file_measured_by_rows_has_the_measures_of_its_picture(monkeypatch):
    clean = np.asarray(RGB)
    region = np.zeros(clean.shape[:2], bool)
    region[5:20, 3:19] = True
    changed = clean ^ np.random.default_rng(0).integers(0, 8, clean.shape, dtype=np.uint8)
    file = FileContent(Path("a.png"), saved(Image.fromarray(changed)))
    whole = measure(clean, changed, region)
    monkeypatch.setattr("unseg.protection.writing.budget_check._STRIP", 30 * 7)
    with read_back(file) as rows:
        assert measure(clean, rows, region) == whole


@pytest.mark.parametrize("left", [100, 0.5, 0.98])
def test_a_truncated_file_is_refused(left):
    data = LAZY["rgb"]
    file = FileContent(Path("a.png"), data[: int(left * len(data)) if left < 1 else left])
    with pytest.raises(UserError, match=r"a\.png"), read_back(file):
        pass
