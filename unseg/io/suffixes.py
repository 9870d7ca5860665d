"""Suffixes of files. Pictures are decoded by content; a suffix only finds them."""

from __future__ import annotations

FORMAT_SUFFIXES: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "MPO": (".mpo",),
}
"""Usual suffixes of each format that is decoded; the first is the one written."""

PICTURE_SUFFIXES = tuple(suffix for group in FORMAT_SUFFIXES.values() for suffix in group)
"""Suffixes of all pictures, in the order in which a stem's file is looked for."""

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")
"""Suffixes of weight files."""
