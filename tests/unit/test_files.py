"""File edges: atomic writes, checksums, safe paths, and pictures decoded with care."""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from unseg.io.decode import image_size, read_grey, read_labels, read_rgb
from unseg.io.files import atomic_write, atomic_write_bytes, resolve_inside, sha256_file
from unseg.utils.errors import UserError


@pytest.fixture
def picture(rng) -> np.ndarray:
    """A smooth (21, 34, 3) picture, so that JPEG changes it little."""
    y, x = np.mgrid[:21, :34]
    return np.stack([y * 9, x * 6, (x + y) * 4], axis=-1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_an_atomic_write_leaves_only_the_finished_file(tmp_path):
    path = tmp_path / "a.bin"
    atomic_write_bytes(path, b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_removes_its_own(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path, "w") as file:
            file.write("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_clear_line(tmp_path):
    def fail() -> None:
        with atomic_write(tmp_path / "a.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"a\.bin: cannot be written: No space .*free some space"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the folder .*nowhere does not exist"):
        atomic_write_bytes(tmp_path / "nowhere" / "a.bin", b"")


def test_the_checksum_is_that_of_the_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(UserError, match="no such file"):
        sha256_file(tmp_path / "b.bin")


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "a/..", "C:\\x", "..\\x"])
def test_a_path_may_not_leave_its_root(relative, tmp_path):
    with pytest.raises(UserError, match="must be a path below"):
        resolve_inside(tmp_path, relative)


def test_a_symbolic_link_may_not_leave_its_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    assert resolve_inside(root, "in/a.png") == root / "in" / "a.png"
    with pytest.raises(UserError, match="symbolic link"):
        resolve_inside(root, "out/a.png")


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_pictures_are_read_exactly_whatever_their_name(ending, picture, tmp_path):
    path = save(tmp_path / f"a.{ending}", picture, lossless=True)
    path = path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_rgb(path), picture)
    assert image_size(path) == picture.shape[:2]


def test_jpeg_is_decoded_as_pillow_does(picture, tmp_path):
    path = save(tmp_path / "a.jpg", picture, quality=95)
    expected = np.asarray(Image.open(path)).astype(int)
    assert np.abs(read_rgb(path).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(orientation, ending, picture, tmp_path):
    path = save(
        tmp_path / f"a.{ending}", picture, exif=with_orientation(orientation), lossless=True
    )
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    found = read_rgb(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert image_size(path) == expected.shape[:2]
    assert read_grey(path).shape == expected.shape[:2]


def test_a_missing_orientation_tag_means_upright(picture, tmp_path):
    path = save(tmp_path / "a.jpg", picture, exif=with_orientation(77))
    assert read_rgb(path).shape == picture.shape


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_usual_mode_becomes_rgb_and_grey(mode, picture, tmp_path):
    grey = picture[..., 0]
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert("RGB" if mode == "P" else "L").convert(mode)
    for ending in ("png", "tif"):
        path = tmp_path / f"a.{ending}"
        image.save(path)
        upright = Image.fromarray(grey) if mode == "I;16" else image
        rgb, expected = read_rgb(path), np.asarray(upright.convert("RGB"))
        np.testing.assert_array_equal(rgb, expected)
        expected_grey = np.asarray(upright.convert("RGB").convert("L")).astype(int)
        np.testing.assert_allclose(read_grey(path).astype(int), expected_grey, atol=1)


def test_cmyk_jpeg_becomes_rgb(picture, tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture).convert("CMYK").save(path, quality=95)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_rgb(path), expected)


def test_labels_keep_their_stored_values(tmp_path, rng):
    labels = rng.integers(0, 21, (8, 9), dtype=np.uint8)
    image = Image.fromarray(labels, mode="P")
    image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "palette.png"), labels)
    deep = labels.astype(np.uint16) * 1000
    save(tmp_path / "deep.png", deep)
    np.testing.assert_array_equal(read_labels(tmp_path / "deep.png"), deep)
    Image.fromarray(labels > 10).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "bits.png"), labels > 10)


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("kept", [0.97, 0.5, 0.1])
def test_a_truncated_picture_is_refused(ending, kept, rng, tmp_path):
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{ending}", noise, lossless=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    for read in (read_rgb, read_grey, read_labels):
        with pytest.raises(UserError, match=rf"a\.{ending}: .*; (restore|convert)"):
            read(path)


def test_a_thumbnail_does_not_hide_a_truncated_jpeg(rng, tmp_path):
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    thumbnail = io.BytesIO()
    Image.fromarray(noise[:8, :8]).save(thumbnail, "JPEG")
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path, comment=thumbnail.getvalue())
    assert read_rgb(path).shape == noise.shape
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="truncated JPEG"):
        read_rgb(path)


def test_a_damaged_png_is_refused(rng, tmp_path):
    path = save(tmp_path / "a.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.png: damaged"):
        read_rgb(path)


def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        crc = struct.pack(">I", zlib.crc32(name + body))
        data += struct.pack(">I", len(body)) + name + body + crc
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    for read in (read_rgb, read_grey, read_labels, image_size):
        with pytest.raises(UserError, match=r"bomb\.png: has .*pixels"):
            read(path)


def test_the_pixel_limit_is_the_callers(picture, tmp_path):
    path = save(tmp_path / "a.png", picture)
    assert read_rgb(path, max_pixels=21 * 34).shape == picture.shape
    with pytest.raises(UserError, match="34 x 21 pixels, more than 713; make it smaller"):
        read_rgb(path, max_pixels=21 * 34 - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not a picture of JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of JPEG"),
        (b"\xff\xd8\xff\xe0", "damaged|not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_content(content, message, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_rgb, read_grey, image_size):
        with pytest.raises(UserError, match=message):
            read(path)


def test_an_animation_is_refused(picture, tmp_path):
    frames = [Image.fromarray(p) for p in (picture, picture[::-1])]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames"):
        read_rgb(tmp_path / "a.webp")


def test_missing_files_and_folders_are_named(tmp_path):
    for read in (read_rgb, image_size):
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "a.png")
        with pytest.raises(UserError, match="is a folder"):
            read(tmp_path)
