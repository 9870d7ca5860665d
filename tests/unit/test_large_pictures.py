"""Large and narrow pictures: made in strips, within bounds, and never the end of a run."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bounded import refusals
from generate_cases import entries_of, make_image, make_set, protect_set
from PIL import Image

from unseg.io.decode import values_of
from unseg.io.pictures import Picture
from unseg.noise import upsample_noise
from unseg.protection import noise_maker, stream
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import METHODS, MethodOptions, base, full_size_noise, unseg
from unseg.protection.noise_maker import level_tensor, model_frame
from unseg.protection.writing import writer

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 300), (300, 1), (70, 200), (200, 70), (64, 64), (130, 131), (64, 100)]
MEMORY, BYTES_A_PIXEL = 300 << 20, 60


def padded_first(pixels, side):
    """The frame as the released program makes it: the square of the longer side, then resized."""
    height, width = pixels.shape[:2]
    square = max(height, width)
    image = level_tensor(pixels, CPU) / float(np.iinfo(pixels.dtype).max)
    image = F.pad(image, (0, square - width, 0, square - height))
    image = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
    return image.expand(-1, 3, -1, -1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_resizing_and_then_padding_gives_the_frame_of_padding_first(size, channels):
    for side in (32, 64, 128):
        pixels = make_image(1, *size, channels)
        for given in (pixels, pixels.astype(np.uint16) * 257):
            found = model_frame(given, image_size=side, device=CPU)
            difference = (found - padded_first(given, side)).abs().max() * 255
            assert difference < 0.001, (side, difference)


@pytest.mark.parametrize("enlarge", ["bilinear", "cosine", "sharp"])
@pytest.mark.parametrize("size", SIZES)
def test_rows_of_noise_are_those_of_the_square(size, enlarge):
    for cells in (8, 64):
        noise = torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(2)) * 2 - 1
        square = upsample_noise(noise, (max(size), max(size)), enlarge=enlarge)
        if enlarge == "bilinear" and max(size) != cells:
            plain = F.interpolate(noise, (max(size),) * 2, mode="bilinear", align_corners=False)
            assert torch.equal(square, plain)
        rows = [
            upsample_noise(noise, size, enlarge=enlarge, rows=(first, min(first + 7, size[0])))
            for first in range(0, size[0], 7)
        ]
        difference = (torch.cat(rows, -2) - square[..., : size[0], : size[1]]).abs().max()
        assert difference < 1e-6, (cells, difference)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].by_rows])
def test_a_picture_made_in_strips_has_the_bytes_of_the_whole_one(name, channels, monkeypatch):
    image = make_image(3, 140, 150, channels)
    region = np.zeros(image.shape[:2], bool)
    region[20:90, 30:111] = True
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1

    def protected():
        return protected_pixels(
            Picture(pixels=image, alpha=(image[:, :, 0] > 9).astype(np.uint8)),
            key="a",
            region=region,
            method=METHODS[name](MethodOptions(grid=16)),
            noise=noise,
            device=CPU,
            classes=region.astype(np.int32),
        )

    whole = protected()
    monkeypatch.setitem(base._STRIP, "cpu", 150 * 9)
    monkeypatch.setattr(unseg, "_ENLARGED_AT_ONCE", 0)
    monkeypatch.setattr(unseg, "_LONG_ROW", 0)
    assert np.array_equal(protected(), whole)


def test_noise_of_several_objects_in_strips_is_that_of_the_whole(monkeypatch):
    noises = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    masks = [torch.zeros(140, 150, dtype=torch.bool) for _ in range(2)]
    masks[0][10:60, 20:70] = True
    masks[1][50:120, 40:150] = True
    whole = full_size_noise(noises, masks, size=(140, 150))
    monkeypatch.setitem(base._STRIP, "cpu", 150 * 9)
    assert torch.equal(full_size_noise(noises, masks, size=(140, 150)), whole)


def test_values_in_strips_are_those_of_the_picture(monkeypatch):
    monkeypatch.setattr("unseg.io.decode._STRIP", 100)
    for mode in ("1", "L", "LA", "RGB", "RGBA"):
        image = Image.fromarray(make_image(6, 33, 21)).convert(mode)
        found, expected = values_of(image), np.asarray(image)
        assert found.dtype == expected.dtype
        assert found.shape == (*expected.shape[:2], len(mode))
        assert np.array_equal(found, expected.reshape(found.shape)), mode


_IMPORTS = """
import sys, json
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
torch.set_num_threads(1)
from generate_cases import saturated_generator
from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.protection.reading.given_pictures import GivenPictures, GivenPrompts
from unseg.protection.run import generate
import PIL.PngImagePlugin, cv2, numpy

def protect(path):
    values = ["data.format=folder", "data.root=.", "run.device=cpu", "run.restart=true"]
    config = load_config(GenerateConfig, None, [*values, f"output.dir={{path.parent}}/out"])
    source = GivenPictures([path], GivenPrompts())
    summary = generate(config, source=source, folders=[], generator=saturated_generator())
    assert summary.exit_code == 0, summary.failures
small = Path({small!r})
protect(small)
"""


@pytest.mark.parametrize(
    "size", [(600_000, 1), (1, 20_000), (140, 7_000)], ids=["column", "row", "panorama"]
)
def test_a_narrow_picture_costs_what_its_pixels_cost(tmp_path, size):
    image = make_image(7, *size)
    cv2.imwrite(str(tmp_path / "in.png"), image)
    cv2.imwrite(str(tmp_path / "small.png"), make_image(8, 20, 30))
    imports = _IMPORTS.format(
        tests=str(Path(__file__).parents[1]), small=str(tmp_path / "small.png")
    )
    allowed = MEMORY + BYTES_A_PIXEL * size[0] * size[1]
    found = refusals(
        imports, "protect(Path(path))", [tmp_path / "in.png"], memory=allowed, seconds=60
    )
    assert found == [None]


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4320 GB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        ZeroDivisionError("anything else"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("place", ["frame", "compose", "encode"])
def test_what_one_picture_raises_is_its_line_and_the_others_are_written(
    tmp_path, monkeypatch, place, fault
):
    root = make_set(tmp_path / "in", 5)
    module, name = {
        "frame": (noise_maker, "model_frame"),
        "compose": (stream, "protected_pixels"),
        "encode": (writer, "encode_picture"),
    }[place]
    plain = getattr(module, name)

    def failing(given, *more, **options):
        pixels = given if isinstance(given, np.ndarray) else given.pixels
        if pixels.shape[:2] == (25, 21):
            raise fault
        return plain(given, *more, **options)

    monkeypatch.setattr(module, name, failing)
    summary = protect_set(root, tmp_path / "out", "run.batch_size=4")
    found = entries_of(tmp_path / "out")
    assert summary.exit_code == 1
    assert [found[key]["status"] for key in sorted(found)].count("protected") == 4
    (failed,) = (entry for entry in found.values() if entry["status"] == "failed")
    assert "001" in failed["key"]
    if not isinstance(fault, ZeroDivisionError):
        assert "does not fit into the memory that is left" in failed["reason"]
