"""Pictures of every kind and a served page, for the tests of the page."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from generate_cases import make_image, saturated_generator
from PIL import Image, ImageCms

from unseg.io.pictures import read_picture
from unseg.page.protecting import Protector
from unseg.page.session import Limits

SIZE = (90, 120)
"""(H, W), upright."""

KINDS = ("plain.png", "portrait.jpg", "clear.png", "grey.png", "deep.png", "profile.png")

LOADED = (
    "plain.png: 120 x 90 pixels, 8-bit colour.",
    "portrait.jpg: 90 x 120 pixels, 8-bit colour (left out: EXIF; turned upright as its EXIF tag "
    "says).",
    "clear.png: 120 x 90 pixels, 8-bit colour with transparency.",
    "grey.png: 120 x 90 pixels, 8-bit grey.",
    "deep.png: 120 x 90 pixels, 16-bit colour.",
    "profile.png: 120 x 90 pixels, 8-bit colour with colour profile.",
)
"""What the page says about them."""


def protector() -> Protector:
    return Protector(saturated_generator(), torch.device("cpu"))


def make_pictures(folder: Path) -> dict[str, Path]:
    """A file of every name in `KINDS`, and `notes.jpg`, which is text."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = SIZE
    rgb = make_image(0, height, width)
    paths = {name: folder / name for name in (*KINDS, "notes.jpg")}
    Image.fromarray(rgb).save(paths["plain.png"])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(rgb).save(paths["portrait.jpg"], exif=exif, quality=95)
    alpha = np.full((height, width), 255, np.uint8)
    alpha[:, : width // 4] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(paths["clear.png"])
    Image.fromarray(rgb[:, :, 0]).save(paths["grey.png"])
    deep = rgb.astype(np.uint16) * 257 + np.arange(width, dtype=np.uint16)[None, :, None] % 100
    cv2.imwrite(str(paths["deep.png"]), deep)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb).save(paths["profile.png"], icc_profile=profile)
    paths["notes.jpg"].write_text("dear diary, this is no picture\n" * 20)
    return paths


def check_archive(
    archive: Path, pictures: dict[str, Path], folder: Path, *, budget: int
) -> dict[str, np.ndarray]:
    """Every kind of picture came back as it went in, but for a change within its budget.

    Returns:
        The largest change of each pixel, (H, W) float in 8-bit levels, by the picture's name.
    """
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    entries = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    assert {entry["key"] for entry in entries} == set(KINDS)
    changes = {}
    for name in KINDS:
        clean = read_picture(pictures[name])
        written = read_picture(folder / Path(name).with_suffix(".png"))
        assert written.size == clean.size == (SIZE[::-1] if name == "portrait.jpg" else SIZE), name
        assert written.orientation == 1, name
        assert written.pixels.dtype == clean.pixels.dtype, name
        assert (written.is_grey, written.icc) == (clean.is_grey, clean.icc), name
        if clean.alpha is not None:
            assert np.array_equal(written.alpha, clean.alpha), name
        change = np.abs(written.pixels.astype(int) - clean.pixels).max(axis=2)
        changes[name] = change / (clean.max_value // 255)
        assert 0 < changes[name].max() <= budget, name
    return changes


def png_of_size(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def connections() -> Iterator[list[str]]:
    """Addresses that this process connects to meanwhile."""
    found: list[str] = []
    original = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):
            found.append(address[0])
        original(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield found


@contextlib.contextmanager
def served(
    folder: Path, limits: Limits | None = None, generator: Any = None, **options: Any
) -> Iterator[Any]:
    """The page on a free port of 127.0.0.1, with gradio's files below `folder`."""
    from unseg.page.app import serve

    wanted = {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    generator = generator or saturated_generator()
    server = serve(generator, device=torch.device("cpu"), folder=folder, limits=limits, **options)
    try:
        yield server
    finally:
        server.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
