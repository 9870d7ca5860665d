"""After writing and reading back, no pixel leaves its budget: any size, mode, turn and prompt."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from generate_cases import entries_of, make_image, saturated_generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.io.encode import png_bytes, tiff_bytes
from unseg.io.pictures import read_picture
from unseg.protection.reading.given_pictures import GivenPictures, GivenPrompts
from unseg.protection.run import generate

MODES = ("L", "LA", "P", "RGB", "RGBA", "I;16", "RGB;16", "CMYK")
PROMPTS = ("mask", "box", "boxes", "points", "whole")


def stored_picture(path: Path, mode: str, height: int, width: int, turn: int, seed: int) -> None:
    """A picture file of that mode whose EXIF orientation is `turn` (where the mode has one)."""
    image = make_image(seed, height, width, 4)
    exif = Image.Exif()
    exif[0x0112] = turn
    if mode == "I;16":
        path.write_bytes(png_bytes(image[:, :, :1].astype(np.uint16) * 257 + 9))
    elif mode == "RGB;16":
        write = tiff_bytes if seed % 2 else png_bytes
        path.write_bytes(write(image[:, :, :3].astype(np.uint16) * 257 + 9))
    elif mode == "CMYK":
        Image.fromarray(image, "CMYK").save(path, "JPEG", exif=exif)
    else:
        array = {"L": image[:, :, 0], "LA": image[:, :, :2], "RGBA": image}.get(
            mode, image[:, :, :3]
        )
        picture = Image.fromarray(array)
        picture = picture.quantize(16) if mode == "P" else picture
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", exif=exif)
        path.write_bytes(buffer.getvalue())


def prompts_for(kind: str, height: int, width: int, folder: Path) -> GivenPrompts:
    right, bottom = width - 1, height - 1
    if kind == "mask":
        mask = np.zeros((height, width), np.uint8)
        mask[: max(1, height // 2), : max(1, width // 2)] = 255
        Image.fromarray(mask).save(folder / "mask.png")
        return GivenPrompts(mask=folder / "mask.png")
    if kind == "box":
        return GivenPrompts(boxes=np.array([[0, 0, right // 2, bottom // 2]], float))
    if kind == "boxes":
        boxes = [[0, 0, right // 2, bottom // 2], [right // 3, bottom // 3, right, bottom]]
        return GivenPrompts(boxes=np.array(boxes, float))
    if kind == "points":
        points = np.array([[right // 2, bottom // 2], [0, 0]], float)
        return GivenPrompts(points=points, labels=np.array([1, 0]))
    return GivenPrompts()


def check(mode, height, width, turn, kind, *, seed=0, output="png"):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / ("in.jpg" if mode == "CMYK" else "in.png")
        stored_picture(source, mode, height, width, turn, seed)
        clean = read_picture(source)
        prompts = prompts_for(kind, *clean.size, folder)
        config = load_config(
            GenerateConfig,
            None,
            [
                "data.format=folder", "data.root=.", f"output.dir={folder}/out", "run.device=cpu",
                f"output.format={output}",
            ],
        )  # fmt: skip
        summary = generate(
            config,
            source=GivenPictures([source], prompts),
            folders=[],
            generator=saturated_generator(),
        )
        entry = entries_of(folder / "out")[source.name]
        assert summary.exit_code == 0, entry
        written = read_picture(folder / "out" / entry["output"])
        # Size, depth, channels, transparency: as the input, upright.
        assert written.size == clean.size
        assert written.orientation == 1
        assert written.pixels.dtype == clean.pixels.dtype
        assert written.is_grey == clean.is_grey
        assert (written.alpha is None) == (clean.alpha is None)
        if clean.alpha is not None:
            assert np.array_equal(written.alpha, clean.alpha)
            under = clean.alpha == 0
            assert np.array_equal(written.pixels[under], clean.pixels[under])
        # The budget, measured here anew: 8 and 2 levels, times 257 at 16 bits.
        scale = clean.max_value // 255
        change = np.abs(written.pixels.astype(int) - clean.pixels.astype(int)).max(axis=2)
        assert change.max() <= 8 * scale
        loud = (change > 2 * scale).mean()
        assert loud <= entry["region_share"] + 1e-6
        assert entry["linf_inside"] == pytest.approx(
            max(change.max() / scale, 0), abs=1e-6
        ) or entry["linf_outside"] == pytest.approx(change.max() / scale, abs=1e-6)
        if kind == "mask":
            region = np.asarray(Image.open(folder / "mask.png")) > 0
            assert change[~region].max(initial=0) <= 2 * scale


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    mode=st.sampled_from(MODES),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    turn=st.integers(1, 8),
    kind=st.sampled_from(PROMPTS),
    seed=st.integers(0, 9),
)
def test_size_mode_and_budget_hold_for_any_picture_and_prompt(
    mode, height, width, turn, kind, seed
):
    check(mode, height, width, turn, kind, seed=seed)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_every_orientation_is_written_upright_within_the_budget(mode, turn):
    check(mode, 21, 34, turn, "mask", seed=turn)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_its_budget_in_its_own_format(mode):
    check(mode, 19, 26, 1, "box", output="same", seed=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (60, 1), (2000, 3000)])
def test_extreme_sizes_keep_the_budget(size):
    check("RGB", *size, 1, "mask")
