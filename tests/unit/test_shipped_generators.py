"""The generators that come with the package: they load by name and are what their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import unseg
from unseg.data import Synthetic
from unseg.degrade import jpeg
from unseg.models.reading import read_weight_file
from unseg.models.weights import EMBEDDED, embedded_path
from unseg.types import Prompts
from unseg.utils.files import sha256_file

names = pytest.mark.parametrize("name", EMBEDDED)


def card(name: str) -> str:
    return embedded_path(name).with_suffix(".md").read_text(encoding="utf-8")


@names
def test_the_noise_is_nearly_saturated_and_answers_the_picture(name: str) -> None:
    generator = unseg.load_generator(name, device="cpu")
    scenes = Synthetic(2, image_size=generator.image_size, seed=5)
    images = [torch.from_numpy(scenes[i].image).permute(2, 0, 1)[None] / 255 for i in range(2)]
    box = torch.tensor([[[0.2, 0.2, 0.7, 0.7]]]) * generator.image_size
    with torch.no_grad():
        noises = [generator(image, Prompts(boxes=box[0])) for image in images]
    for noise in noises:
        assert noise.shape == (1, 3, generator.noise_size, generator.noise_size)
        assert 0.9 < noise.abs().mean() <= 1
    # Not by much: the cards say how alike the noise of different pictures is.
    assert (noises[0] - noises[1]).abs().mean() > 0.01


@names
def test_the_card_names_its_file_its_data_and_its_limits(name: str) -> None:
    text = card(name)
    assert sha256_file(embedded_path(name)) in text
    for heading in ("Training", "Data and terms", "Measured protection", "Limits"):
        assert f"## {heading}" in text
    for source in ("COCO", "DAVIS", "CCP"):
        assert source in text


@names
def test_the_file_tells_its_recipe_and_nothing_of_the_machine(name: str) -> None:
    header = read_weight_file(embedded_path(name)).header["unseg"]
    assert '"list_folders": ["CCP", "DAVIS"]' in header
    assert not re.search(r'"/|\\\\|home|tmp', header)
    assert card(name).count("/home") == 0


def test_both_make_coloured_noise_and_the_robust_one_in_cells_twice_as_large() -> None:
    picture = Synthetic(1, image_size=128)[0]
    for name, cell in (("default", 2), ("robust", 4)):
        generator = unseg.load_generator(name, device="cpu")
        assert 128 // generator.noise_size == cell
        result = unseg.protect(picture.image, mask=picture.mask, generator=generator)
        inside = result.noise[picture.mask].astype(np.int64)
        assert np.abs(inside - inside.mean(1, keepdims=True)).max() > 4


def test_the_robust_one_keeps_its_colours_in_jpeg_better_than_the_default() -> None:
    scenes = Synthetic(4, image_size=128, seed=3)
    kept = {}
    for name in EMBEDDED:
        generator = unseg.load_generator(name, device="cpu")
        share = []
        for scene in (scenes[i] for i in range(4)):
            result = unseg.protect(scene.image, generator=generator)
            pair = [torch.from_numpy(p).permute(2, 0, 1) for p in (scene.image, result.image)]
            clean, protected = (jpeg(p[None] / 255, 75) for p in pair)
            before = colour(torch.from_numpy(result.noise).permute(2, 0, 1)[None] / 255)
            after = colour(protected - clean)
            share.append(float((before * after).sum() / before.square().sum()))
        kept[name] = np.mean(share)
    assert kept["robust"] > kept["default"] + 0.1


def colour(change: torch.Tensor) -> torch.Tensor:
    """What greyscale and a constant tint leave out of a change."""
    colours = change - change.mean(1, keepdim=True)
    return colours - colours.mean((-2, -1), keepdim=True)


def test_all_of_them_are_small() -> None:
    sizes = [embedded_path(name).stat().st_size for name in EMBEDDED]
    assert sum(sizes) <= 25 * 2**20
    assert {Path(embedded_path(name)).suffix for name in EMBEDDED} == {".safetensors"}
