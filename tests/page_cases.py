"""Pictures of every kind and a served page, for the tests of the page."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from generate_cases import make_image, saturated_generator
from PIL import Image, ImageCms

from unseg.page.protecting import Protector
from unseg.page.session import Limits

SIZE = (90, 120)
"""(H, W), upright."""

KINDS = ("plain.png", "portrait.jpg", "clear.png", "grey.png", "deep.png", "profile.png")


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


def png_of_size(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def served(folder: Path, limits: Limits | None = None) -> Iterator[Any]:
    """The page on a free port of 127.0.0.1, with gradio's files below `folder`."""
    from unseg.page.app import serve

    wanted = {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    server = serve(saturated_generator(), device=torch.device("cpu"), folder=folder, limits=limits)
    try:
        yield server
    finally:
        server.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
