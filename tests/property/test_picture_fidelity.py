"""Pictures of every mode, size and orientation come back as they were written."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from unseg.io import encode
from unseg.io.decode import turn_upright
from unseg.io.encode import encode_picture
from unseg.io.files import FileContent, atomic_write_bytes
from unseg.io.pictures import Picture, read_picture
from unseg.utils.errors import UserError

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = ("PNG", "TIFF", "BMP", "WEBP")


def decoded(data):
    return read_picture(FileContent(Path("x"), data))


def random_picture(seed, height, width, channels, dtype, icc):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)
    has_alpha = channels in (2, 4)
    return Picture(
        pixels=values[:, :, :-1] if has_alpha else values,
        alpha=values[:, :, -1] if has_alpha else None,
        icc=ICC if icc else None,
    )


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    icc=st.booleans(),
    form=st.sampled_from(LOSSLESS),
)
def test_what_is_written_losslessly_is_read_back_exactly(
    seed, height, width, channels, dtype, icc, form
):
    picture = random_picture(seed, height, width, channels, dtype, icc)
    is_deep, has_alpha = dtype == np.uint16, channels in (2, 4)
    cannot = {
        "PNG": False,
        "TIFF": is_deep and channels == 2,
        "WEBP": is_deep,
        "BMP": is_deep or has_alpha or icc,
    }
    if cannot[form]:
        with pytest.raises(UserError, match="cannot hold"):
            encode_picture(picture, form)
        return
    data = encode_picture(picture, form)
    found = decoded(data)
    expected = picture.rgb() if form == "WEBP" else picture.pixels  # WEBP knows no grey
    assert found.pixels.dtype == dtype
    assert np.array_equal(found.pixels, expected)
    assert (found.alpha is None) == (picture.alpha is None)
    if picture.alpha is not None:
        assert np.array_equal(found.alpha, picture.alpha)
    assert found.icc == picture.icc


def stored_with(upright, orientation):
    """The pixels that turn into `upright` under an orientation."""
    array = upright
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return np.ascontiguousarray(array)


UPRIGHT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_and_its_tag_removed(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    smooth = cv2.resize(UPRIGHT, (32, 48), interpolation=cv2.INTER_LINEAR)
    path = tmp_path / "a.x"
    Image.fromarray(stored_with(smooth, orientation)).save(
        path, form, exif=exif, **options.get(form, {})
    )
    picture = read_picture(path)
    assert picture.orientation == orientation
    assert picture.size == (48, 32)
    assert picture.stored_size == ((32, 48) if orientation >= 5 else (48, 32))
    difference = np.abs(picture.pixels.astype(int) - smooth).max()
    assert difference <= (4 if form == "JPEG" else 0)
    (tmp_path / "b.png").write_bytes(encode_picture(picture))
    with Image.open(tmp_path / "b.png") as written:
        assert written.size == (32, 48)
        assert not written.getexif()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_tiff_files_are_turned_too(monkeypatch, channels, orientation):
    rng = np.random.default_rng(0)
    upright = rng.integers(0, 65536, (6, 4, channels)).astype(np.uint16)
    plain = encode._directory

    def with_tag(entries, *, extra_at):
        entries = sorted([*entries, (0x0112, 3, struct.pack("<H", orientation))])
        return plain(entries, extra_at=extra_at + 12)

    monkeypatch.setattr(encode, "_directory", with_tag)
    data = encode.tiff_bytes(stored_with(upright, orientation))
    found = decoded(data)
    assert found.orientation == orientation
    assert np.array_equal(found.stacked(), upright)


def test_turning_is_the_inverse_of_storing():
    for orientation in range(1, 9):
        assert np.array_equal(turn_upright(stored_with(UPRIGHT, orientation), orientation), UPRIGHT)


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_16_bit_pictures_keep_their_16_bits():
    ramp = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    for data in (saved(Image.fromarray(ramp), "PNG"), saved(Image.fromarray(ramp), "TIFF")):
        found = decoded(data)
        assert found.mode == "I;16"
        assert np.array_equal(found.pixels[:, :, 0], ramp)
    colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], 2)
    for suffix in (".png", ".tiff"):
        data = cv2.imencode(suffix, cv2.cvtColor(colour, cv2.COLOR_RGB2BGR))[1].tobytes()
        found = decoded(data)
        assert found.mode == "RGB;16"
        assert np.array_equal(found.pixels, colour)
        assert np.array_equal(found.rgb8(), np.round(colour / 257).astype(np.uint8))


def test_palettes_become_rgb_with_a_note_and_keep_transparency():
    image = Image.fromarray(UPRIGHT).quantize(8)
    found = decoded(saved(image, "PNG"))
    assert found.mode == "P"
    assert found.notes == ("palette converted to RGB",)
    assert np.array_equal(found.pixels, np.asarray(image.convert("RGB")))
    found = decoded(saved(image, "PNG", transparency=0))
    assert found.alpha is not None
    assert set(np.unique(found.alpha)) == {0, 255}


def test_cmyk_and_one_bit_pictures_are_converted_and_noted():
    cmyk = Image.fromarray(UPRIGHT).convert("CMYK")
    found = decoded(saved(cmyk, "TIFF"))
    assert found.notes == ("CMYK converted to RGB",)
    assert np.array_equal(found.pixels, np.asarray(cmyk.convert("RGB")))
    bits = Image.fromarray((UPRIGHT[:, :, 0] > 90).astype(np.uint8) * 255).convert("1")
    found = decoded(saved(bits, "PNG"))
    assert found.is_grey
    assert np.array_equal(found.pixels[:, :, 0], np.asarray(bits) * np.uint8(255))


def test_colour_under_full_transparency_is_kept():
    values = np.dstack([UPRIGHT, np.zeros((6, 4), np.uint8)])
    for form in ("PNG", "TIFF", "WEBP"):
        picture = Picture(pixels=UPRIGHT, alpha=values[:, :, 3])
        found = decoded(encode_picture(picture, form))
        assert np.array_equal(found.pixels, UPRIGHT)
        assert not found.alpha.any()


def test_a_jpeg_is_written_only_where_it_can_hold_the_picture():
    plain = decoded(encode_picture(Picture(pixels=UPRIGHT, icc=ICC), "JPEG"))
    assert plain.icc == ICC
    with pytest.raises(UserError, match="JPEG cannot hold transparency"):
        encode_picture(Picture(pixels=UPRIGHT, alpha=UPRIGHT[:, :, 0]), "JPEG")
    with pytest.raises(UserError, match="JPEG cannot hold 16 bits"):
        encode_picture(Picture(pixels=UPRIGHT.astype(np.uint16)), "JPEG")


def test_files_are_recognised_by_content_and_a_wrong_suffix_is_noted(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(Image.fromarray(UPRIGHT), "PNG"))
    found = read_picture(path)
    assert found.file_format == "PNG"
    assert found.notes == ("is a PNG file in spite of its suffix .jpg",)


def frames(form):
    images = [Image.fromarray(np.full((5, 5, 3), v, np.uint8)) for v in (0, 200)]
    return saved(images[0], form, save_all=True, append_images=images[1:])


def bomb():
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


PNG = saved(
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)), "PNG"
)
JPEG = saved(Image.fromarray(UPRIGHT).resize((200, 200)), "JPEG")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty file"),
        (b"this is a text file\n" * 20, "not a picture"),
        (PNG[: len(PNG) // 2], "damaged picture"),
        (PNG[:20], "damaged picture|not a picture"),
        (JPEG[: len(JPEG) // 2], "damaged picture"),
        (frames("GIF"), "several frames or pages"),
        (frames("PNG"), "several frames or pages"),
        (frames("WEBP"), "several frames or pages"),
        (frames("TIFF"), "several frames or pages"),
        (bomb(), "144000000|12000 x 12000 pixels"),
        (saved(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "type F"),
        (saved(Image.new("LAB", (3, 3)), "TIFF"), "type LAB"),
    ],
)
def test_a_file_that_cannot_be_kept_is_refused_by_name(tmp_path, data, fault):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"bad.png: .*({fault})"):
        read_picture(path, max_pixels=100_000_000)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"absent.png: no such file"):
        read_picture(tmp_path / "absent.png")


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError):
        encode_picture(Picture(pixels=UPRIGHT.astype(np.uint16)), "BMP")
    with pytest.raises(UserError):
        atomic_write_bytes(tmp_path / "no/folder/a.png", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", LOSSLESS)
def test_of_the_metadata_only_the_colour_profile_is_carried(form):
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    exif.get_ifd(0x8825)[1] = "N"
    source = io.BytesIO()
    Image.new("RGB", (9, 7), (90, 120, 30)).save(
        source, "JPEG", exif=exif, comment=b"a secret comment", xmp=b"<secret/>", icc_profile=ICC
    )
    assert source.getvalue().count(b"secret") == 3
    picture = decoded(source.getvalue())
    if form == "BMP":  # which holds no profile
        picture = replace(picture, icc=None)
    data = encode_picture(picture, form)
    assert b"secret" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert not {1, 0x010E, 0x8825} & set(image.getexif())
        assert form == "BMP" or image.info["icc_profile"] == ICC
