"""Signs that tell the classes of a label map apart."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from generate_cases import make_image, protect_set
from PIL import Image

from unseg.io.pictures import Picture
from unseg.noise import Carrier, upsample_noise
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import METHODS, MethodOptions
from unseg.protection.methods.class_sign import CODE_SIDE, class_code

GRID = 12


RGB = Carrier.parse("rgb")


@pytest.mark.parametrize(
    ("text", "number"), [("rgb", 189), ("luma", 63), ("yellow_blue", 63), ("opponent, sharp", 63)]
)
def test_each_class_has_a_code_of_its_own(text, number):
    carrier = Carrier.parse(text)
    codes = torch.cat([class_code(label, carrier=carrier) for label in range(2 * number)])
    assert codes.shape == (2 * number, 3, CODE_SIDE, CODE_SIDE)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert (codes.mean((2, 3)) == 0).all()
    rows = carrier.matrix()
    for first, second in itertools.combinations(range(3), 2):
        if torch.equal(rows[first], rows[second]):
            assert torch.equal(codes[:, first], codes[:, second])
    alike = codes.flatten(1) @ codes.flatten(1).T / codes[0].numel()
    assert torch.equal(codes[number:], -codes[:number])
    # Two contrasts of one pattern share a third of their signs' product, other patterns nothing.
    others = alike[:number, :number].fill_diagonal_(0).abs()
    assert others.max() <= 1 / 3 + 1e-6
    assert torch.equal(class_code(2 * number + 5, carrier=carrier), codes[5:6])


def test_horizontal_bands_come_first_and_mirroring_keeps_them():
    for label in range(21):
        code = class_code(label, carrier=RGB)
        assert torch.equal(code, code.flip(-1))
    assert not torch.equal(code := class_code(21, carrier=RGB), code.flip(-1))
    coarsest = class_code(0, carrier=Carrier.parse("luma"))[0, 0]
    assert torch.equal(coarsest, torch.tensor([1.0] * 4 + [-1.0] * 4)[:, None].expand(8, 8))


def protected(image: np.ndarray, classes: np.ndarray, **options) -> np.ndarray:
    """What class_sign changes, with every class in the region."""
    result = protected_pixels(
        Picture(pixels=image),
        key="a",
        region=classes >= 0,
        method=METHODS["class_sign"](MethodOptions(grid=GRID, **options)),
        noise=None,
        device=torch.device("cpu"),
        classes=classes,
    )
    return result.astype(int) - image


def test_a_pixel_changes_by_its_cell_of_its_class_s_code():
    side = 2 * GRID
    image = np.full((side, side - 5, 3), 128, np.uint8)
    classes = np.random.default_rng(0).integers(-1, 30, image.shape[:2]).astype(np.int32)
    found = protected(image, classes)
    for label in range(-1, 30):
        cells = torch.zeros(1, 3, GRID, GRID)
        if label >= 0:
            for y in range(GRID):
                for x in range(GRID):
                    code = class_code(label, carrier=RGB)
                    cells[..., y, x] = code[..., y % CODE_SIDE, x % CODE_SIDE]
        wanted = (8 * upsample_noise(cells, image.shape[:2])).round()[0].permute(1, 2, 0).numpy()
        inside = classes == label
        assert inside.any()
        assert np.array_equal(found[inside], wanted[inside])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_budget_holds_and_void_stays_as_it_is(channels):
    image = make_image(1, 33, 47, channels)
    classes = np.full(image.shape[:2], 3, np.int32)
    classes[:, 20:] = 2
    classes[:5] = -1
    change = protected(image, classes)
    assert np.abs(change[5:]).max(axis=(0, 1)).min() == 8
    assert not change[:5].any()
    softer = protected(image, classes, epsilon=3)
    assert 0 < np.abs(softer).max() <= 3


@pytest.mark.parametrize("classes", ["label", "region"])
def test_a_set_is_protected_class_by_class_without_a_generator(tmp_path, classes):
    root = tmp_path / "in"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    image = np.full((24, 24, 3), 100, np.uint8)
    Image.fromarray(image).save(root / "images/a.png")
    labels = np.ones((24, 24), np.uint8)
    labels[:, 12:] = 2
    Image.fromarray(labels).save(root / "masks/a.png")
    protect_set(
        root,
        tmp_path / "out",
        "data.format=class_png",
        "data.num_classes=3",
        "method=class_sign",
        "noise.grid=8",
        f"noise.classes={classes}",
    )
    made = next((tmp_path / "out").rglob("a.png"))
    change = np.asarray(Image.open(made)).astype(int) - image
    assert np.abs(change).max() == 8
    assert np.array_equal(change[:, :9], change[:, 15:]) == (classes == "region")
    settings = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert settings["noise.classes"] == classes
    assert settings["generator.sha256"] is None


def test_coarse_bands_repeat_their_code_in_cells_of_their_own():
    carrier = Carrier.parse("0.75 luma/2 + 0.25 opponent, sharp")
    code = class_code(3, carrier=carrier, side=32)[0]
    luma, opponent = (code[0] + code[1]) / 2, (code[0] - code[1]) / 2
    plain = class_code(3, carrier=Carrier.parse("luma"))[0, 0]
    for y in range(32):
        for x in range(32):
            assert luma[y, x] == 0.75 * plain[y // 2 % CODE_SIDE, x // 2 % CODE_SIDE]
            assert opponent[y, x] == 0.25 * plain[y % CODE_SIDE, x % CODE_SIDE]
