"""Noise whose signs tell the classes of a label map apart."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from generate_cases import make_image
from PIL import Image

from unseg.noise import FIELD_OF_COLOUR, upsample_noise
from unseg.protect.compose import protected_pixels
from unseg.protect.methods import METHODS, MethodOptions, build_method
from unseg.protect.methods.class_codes import CODE_SIDE, class_code, coded_by_class
from unseg.protect.picture import Picture

GRID = 12


def field(side: int = GRID, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("channels", "number"), [("rgb", 189), ("luma", 63), ("yellow_blue", 63)])
def test_each_class_has_a_code_of_its_own(channels, number):
    codes = torch.cat([class_code(label, channels=channels) for label in range(2 * number)])
    assert codes.shape == (2 * number, 3, CODE_SIDE, CODE_SIDE)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert (codes.mean((2, 3)) == 0).all()
    fields = torch.tensor(FIELD_OF_COLOUR[channels])
    for first, second in itertools.combinations(range(3), 2):
        if fields[first] == fields[second]:
            assert torch.equal(codes[:, first], codes[:, second])
    alike = codes.flatten(1) @ codes.flatten(1).T / codes[0].numel()
    assert torch.equal(codes[number:], -codes[:number])
    # Two contrasts of one pattern share a third of their signs' product, other patterns nothing.
    others = alike[:number, :number].fill_diagonal_(0).abs()
    assert others.max() <= 1 / 3 + 1e-6
    assert torch.equal(class_code(2 * number + 5, channels=channels), codes[5:6])


def test_the_first_codes_are_the_coarsest_stripes():
    first = class_code(0, channels="luma")[0, 0]
    assert torch.equal(first, torch.tensor([1.0] * 4 + [-1.0] * 4).expand(8, 8))
    assert torch.equal(class_code(1, channels="luma")[0, 0], first.T)
    changes = [
        sum(int(code.diff(dim=axis).ne(0).any(1 - axis).sum()) for axis in (0, 1))
        for code in (class_code(label, channels="luma")[0, 0] for label in range(63))
    ]
    assert changes == sorted(changes)


def test_a_pixel_carries_the_noise_of_an_image_that_is_all_of_its_class():
    height, width = 30, 41
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 5, (height, width))
    classes = torch.from_numpy(labels)[None, None]
    noise = field()
    found = coded_by_class(noise, classes, grid=GRID, channels="rgb")
    assert found.shape == (1, 3, width, width)
    plain = upsample_noise(noise, (height, width))
    for label in range(-1, 5):
        wanted = plain
        if label >= 0:
            coded = noise.clone()
            for y in range(GRID):
                for x in range(GRID):
                    coded[..., y, x] *= class_code(label, channels="rgb")[
                        ..., y % CODE_SIDE, x % CODE_SIDE
                    ]
            wanted = upsample_noise(coded, (height, width))
        inside = torch.from_numpy(labels == label)
        assert inside.any()
        assert torch.allclose(found[..., :height, :width][..., inside], wanted[..., inside])


def test_noise_at_full_size_gets_the_codes_of_its_cells():
    side = 2 * GRID
    classes = torch.zeros(1, 1, side, side, dtype=torch.int32)
    found = coded_by_class(torch.ones(1, 3, side, side), classes, grid=GRID, channels="rgb")
    code = class_code(0, channels="rgb")
    for y in range(side):
        for x in range(side):
            wanted = code[..., y // 2 % CODE_SIDE, x // 2 % CODE_SIDE]
            assert torch.equal(found[..., y, x], wanted)


@pytest.mark.parametrize("name", ["unseg", "tiled_sign", "flat"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_budget_holds_and_void_keeps_the_noise_as_it_was(name, channels):
    size = (33, 47)
    image = make_image(1, *size, channels)
    classes = np.zeros(size, np.int32)
    classes[:, 20:] = 2
    classes[:5] = -1
    region = classes >= 0

    def change(**options):
        method = build_method(name, MethodOptions(grid=GRID, **options))
        assert method.needs_classes == bool(options)
        result = protected_pixels(
            Picture(pixels=image),
            key="a",
            region=region,
            method=method,
            noise=torch.tanh(9 * field()) if METHODS[name](MethodOptions()).noise_from else None,
            device=torch.device("cpu"),
            classes=classes if options else None,
        )
        return result.astype(int) - image

    plain, coded = change(), change(by_class=True)
    assert np.abs(coded).max() <= 8
    assert np.array_equal(coded[:5], plain[:5])
    assert not np.array_equal(coded[5:, :20], plain[5:, :20])
    assert not np.array_equal(coded[5:, 20:], plain[5:, 20:])


def test_a_set_is_protected_class_by_class_and_the_manifest_says_so(tmp_path):
    from generate_cases import protect_set, tree_bytes

    root = tmp_path / "in"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(make_image(3, 24, 24, 3)).save(root / "images/a.png")
    labels = np.zeros((24, 24), np.uint8)
    labels[:, 12:] = 1
    Image.fromarray(labels).save(root / "masks/a.png")
    options = ("data.format=class_png", "data.num_classes=2")
    protect_set(root, tmp_path / "coded", *options, "noise.by_class=true")
    protect_set(root, tmp_path / "plain", *options)
    assert tree_bytes(tmp_path / "coded") != tree_bytes(tmp_path / "plain")
    assert json.loads((tmp_path / "coded/run.json").read_text())["settings"]["noise.by_class"]
