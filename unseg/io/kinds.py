"""What a file is, by its first bytes: a picture that is read, one that is not, or none."""

from __future__ import annotations

import re

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""Formats that are read; of a phone's JPEG with a second picture behind (MPO) the first."""

START_BYTES = 64
"""Bytes that tell the kind of a file."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")
_DIB_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_NETPBM = re.compile(rb"P[1-6]\s*(\s\d|#)")

_OTHER_STARTS: dict[bytes, str] = {
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "Photoshop",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance",
    b"gimp xcf": "GIMP",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"\0\0\x01\0": "icon",
    b"icns": "icon",
    b"P7\nWIDTH": "PAM",
    b"FUJIFILMCCD-RAW": "raw camera",
    b"IIRO": "raw camera",
    b"IIU\0": "raw camera",
    b"MMOR": "raw camera",
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"), "HEIC"),
    **dict.fromkeys((b"msf1",), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "raw camera",
}
_OTHER_SUFFIXES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".avif": "AVIF",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx", ".jpc"), "JPEG 2000"),
    ".jxl": "JPEG XL",
    ".tga": "TGA",
    ".pcx": "PCX",
    ".svg": "SVG",
    ".psd": "Photoshop",
    ".exr": "OpenEXR",
    ".hdr": "Radiance",
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf"), "raw camera"),
    **dict.fromkeys((".rw2", ".pef", ".srw", ".nrw", ".3fr", ".iiq"), "raw camera"),
}


def picture_format(start: bytes) -> str | None:
    """Pillow's name of the format, one of `FORMATS`, or None.

    Args:
        start: the first `START_BYTES` of the file.
    """
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith(_TIFF_STARTS):
        return "TIFF"
    if start.startswith(b"BM") and int.from_bytes(start[14:18], "little") in _DIB_SIZES:
        return "BMP"
    return "PPM" if _NETPBM.match(start) else None


def unread_kind(start: bytes, suffix: str) -> str | None:
    """Name of a kind of picture that is not read, or None.

    Raw files of cameras are TIFF files by content, whose first picture is a small preview: of them
    the suffix decides.

    Args:
        start: the first `START_BYTES` of the file.
        suffix: of its name, lower case, with the dot.
    """
    kind = _OTHER_SUFFIXES.get(suffix)
    if kind == "raw camera" or (kind is not None and picture_format(start) is None):
        return kind
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12])
    return next((name for mark, name in _OTHER_STARTS.items() if start.startswith(mark)), None)
