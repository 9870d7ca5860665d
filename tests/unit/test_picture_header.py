"""What a header promises is judged before a library believes it; children prove the bounds."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import picture_files as made
import pytest
from bounded import refusals
from PIL import Image

from unseg.io.encode import encode_picture
from unseg.io.files import FileContent
from unseg.io.pictures import Picture, read_picture
from unseg.utils.errors import UserError

READERS = {
    "image_size": "from unseg.io.decode import image_size",
    "read_picture": "from unseg.io.pictures import read_picture",
}
SMALL = made.saved(made.scene(32, 32), "JPEG")
EXIF = b"Exif\0\0" + made.greedy_tags(5000, 5000)
GREEDY: dict[str, tuple[bytes, str]] = {
    "pages.tif": (made.many_directories(30_000), "several frames or pages"),
    "tags.tif": (made.greedy_tags(60_000, 1 << 20), "values are larger than the file"),
    "tile.tif": (
        made.grey_tiff(9, 9, 8, b"\0" * 99, t322=60_000, t323=60_000, t324=8, t325=99),
        "tiles of 60000 x 60000",
    ),
    "exif.jpg": (made.jpeg_with(0xE1, EXIF[:65_000]), "values are larger than the file"),
    "index.jpg": (
        made.jpeg_with(0xE2, b"MPF\0" + made.greedy_tags(2000, 40_000)),
        "values are larger than the file",
    ),
    "promise.jpg": (made.resized_jpeg(SMALL, 13_000, 13_000), "cannot hold 13000 x 13000"),
    "promise.png": (made.png(13_000, 13_000, 8, 2, b"\0" * 99), "cannot hold 13000 x 13000"),
    "promise.tif": (made.grey_tiff(13_000, 13_000, 8, b"\0" * 99), "cannot hold 13000 x 13000"),
    "promise.gif": (
        made.saved(Image.new("L", (5, 5)), "GIF")[:6] + struct.pack("<HH", 13_000, 13_000)
        + made.saved(Image.new("L", (5, 5)), "GIF")[10:],
        "cannot hold 13000 x 13000",
    ),
    "promise.ppm": (b"P6 13000 13000 255\n" + b"\0" * 99, "cannot hold 13000 x 13000"),
    "promise.bmp": (
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, 13_000, 13_000, 1, 24, *[0] * 6),
        "cannot hold 13000 x 13000",
    ),
    "canvas.webp": (made.wide_webp(), "16777215 x 16777215 pixels"),
    "chunks.png": (
        made.png(1, 1, 8, 0, b"\0\0", made.chunk(b"teXt", b"") * 1_000_001),
        "more than 1000000 chunks",
    ),
    "filling.jpg": (SMALL[:2] + b"\xff" * 1_000_001 + SMALL[2:], "more than 1000000 marks"),
    "blocks.gif": (
        made.saved(Image.new("L", (5, 5)), "GIF")[:-1] + b"!\xfe" + b"\1x" * 1_000_001 + b"\0;",
        "more than 1000000 blocks",
    ),
    "comment.ppm": (b"P6 #" + b"x" * 100_000 + b"\n1 1 255\n000", "no size at the start"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("greedy")
    for name, (data, _) in GREEDY.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_small_files_with_large_promises_are_refused_within_bounds(
    folder: Path, reader: str
) -> None:
    paths = [folder / name for name in GREEDY]
    found = refusals(READERS[reader], f"{reader}(path)", paths, memory=250 << 20, seconds=30)
    for (name, (_, wanted)), message in zip(GREEDY.items(), found, strict=True):
        assert message is not None, name
        assert wanted in message, message


def decoded(data: bytes) -> Picture:
    return read_picture(FileContent(Path("x"), data))


def deep_tiff(rows: int, height: int, **tags: int) -> bytes:
    return made.grey_tiff(300, height, 16, b"\x55\x66" * (300 * rows), **tags)


@pytest.mark.parametrize("tags", [{}, {"t278": 38}, {"t279": 300 * 248 * 2}])
def test_a_16_bit_tiff_with_38_of_248_rows_is_refused_and_not_padded(tags: dict[str, int]) -> None:
    assert decoded(deep_tiff(248, 248)).size == (248, 300)
    with pytest.raises(UserError, match=r"truncated TIFF file|data of 1 of 7 parts"):
        decoded(deep_tiff(38, 248, **tags))


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("colour", ["flat", "random"])
def test_a_jpeg_whose_data_ends_before_its_pixels_is_refused(colour: str, subsampling: int) -> None:
    image = made.scene(40, 50) if colour == "random" else Image.new("RGB", (50, 40), "white")
    data = made.saved(image, "JPEG", subsampling=subsampling)
    assert decoded(data).size == (40, 50)
    with pytest.raises(UserError, match="truncated JPEG file"):
        decoded(made.resized_jpeg(data, 50, 80))
    if colour == "random":
        with pytest.raises(UserError, match="truncated JPEG file"):
            decoded(data[: len(data) * 3 // 4] + b"\xff\xd9")


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 17), (16, 1)])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_jpegs_of_any_size_are_taken(shape: tuple[int, int], progressive: bool) -> None:
    for image in (made.scene(*shape), Image.new("L", shape[::-1], 200)):
        assert decoded(made.saved(image, "JPEG", progressive=progressive)).size == shape


def profile_chunk(profile: bytes) -> bytes:
    return made.chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


def test_a_profile_of_2_mb_is_kept_and_one_of_64_mb_is_named() -> None:
    profile = np.random.default_rng(0).integers(0, 9, 2 << 20, np.uint8).tobytes()
    found = decoded(made.png(2, 1, 16, 0, b"\0\1\2\3\4", profile_chunk(profile)))
    assert found.icc == profile
    assert found.notes == (
        "kept a colour profile of 2,097,152 bytes, which not every reader takes",
    )
    again = decoded(encode_picture(found, "PNG"))
    assert again.icc == profile
    assert np.array_equal(again.pixels, found.pixels)
    found = decoded(made.png(1, 1, 8, 0, b"\0\7", profile_chunk(b"\0" * (64 << 20))))
    assert found.icc is None
    assert found.notes == ("left out: a colour profile of more than 16,777,216 bytes",)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "clear", "alpha"),
    [
        (1, 0, b"\x80", b"\0\1", [0, 255]),
        (2, 0, b"\x90", b"\0\1", [255, 0]),
        (8, 0, b"\x07\x08", b"\0\x08", [255, 0]),
        (16, 0, b"\0\7\0\x08", b"\0\7", [0, 65535]),
        (8, 2, b"\1\2\3\4\5\6", b"\0\4\0\5\0\6", [255, 0]),
        (16, 2, b"\0\1\0\2\0\3\0\4\0\5\0\6", b"\0\1\0\2\0\3", [0, 65535]),
        (8, 0, b"\x05\x06", b"\x47\x05", [0, 255]),  # bits above the picture's do not count,
        (8, 0, b"\x05\x06", b"\0\x06PNG!", [255, 0]),  # nor do bytes after the colour
        (2, 0, b"\x60", b"\xff\xfd", [0, 255]),
    ],
)
def test_a_transparent_colour_becomes_alpha_at_every_depth(
    bits: int, colour: int, row: bytes, clear: bytes, alpha: list[int]
) -> None:
    found = decoded(made.png(2, 1, bits, colour, b"\0" + row, made.chunk(b"tRNS", clear)))
    assert found.alpha is not None
    assert found.alpha.tolist() == [alpha]
    again = decoded(encode_picture(found, "PNG"))
    assert np.array_equal(again.stacked(), found.stacked())


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (b"P6 1 2 65535\n" + struct.pack(">6H", 1, 2, 3, 65535, 5, 6), [[1, 2, 3], [65535, 5, 6]]),
        (b"P6\n#a\n1 2 1023\n" + struct.pack(">6H", *range(1018, 1024)), None),
        (b"P5 1 2 65535\n\1\2\3\4", [[258], [772]]),
        (b"P3 1 2 65535 1 2 3 # end\n 4 5 65535", [[1, 2, 3], [4, 5, 65535]]),
        (b"P2 1 2 255\n7\n200", [[7], [200]]),
        (b"P1 2 1\n10", [[0], [255]]),
        (b"P4 2 1\n\x40", [[255], [0]]),
    ],
)
def test_netpbm_files_keep_their_values(data: bytes, pixels: list[list[int]] | None) -> None:
    found = decoded(data)
    values = found.pixels.reshape(-1, found.pixels.shape[2])
    if pixels is None:
        pixels = [
            [round(v * 65535 / 1023) for v in row]
            for row in ((1018, 1019, 1020), (1021, 1022, 1023))
        ]
    assert values.tolist() == pixels
    assert found.max_value == (65535 if max(map(max, pixels)) > 255 else 255)


@pytest.mark.parametrize(
    "data", [b"P2 2 1 255\n7", b"P3 1 1 255\n1 2 x", b"P2 1 1 9\n10", b"P6 1 1 70000\n123456"]
)
def test_damaged_netpbm_files_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"damaged picture|truncated"):
        decoded(data)


def test_what_cannot_stay_is_noted() -> None:
    exif = Image.Exif()
    exif[0x010E] = "words"
    data = made.saved(made.scene(9, 9), "JPEG", exif=exif, comment=b"words", xmp=b"<words/>")
    assert decoded(data).notes == ("left out: EXIF, XMP, comment",)
    gamma = made.chunk(b"gAMA", struct.pack(">I", 100_000))
    assert decoded(made.png(1, 1, 8, 0, b"\0\7", gamma)).notes == ("left out: gamma 1",)
