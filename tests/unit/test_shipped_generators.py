"""The generators that come with the package: they load by name and are what their cards say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unseg
from unseg.data import Synthetic
from unseg.degrade import greyscale, jpeg
from unseg.io.files import sha256_file
from unseg.io.weight_files.read import read_weight_file
from unseg.models.weights import EMBEDDED, embedded_path
from unseg.types import Prompts

TRAINED = tuple(name for name in EMBEDDED if name != "pattern")
names = pytest.mark.parametrize("name", TRAINED)


def jpeg_75(image: Tensor) -> Tensor:
    return jpeg(image, 75)


def card(name: str) -> str:
    return embedded_path(name).with_suffix(".md").read_text(encoding="utf-8")


@names
def test_the_noise_is_nearly_saturated_and_as_alike_between_pictures_as_its_card_says(
    name: str,
) -> None:
    generator = unseg.load_generator(name, device="cpu")
    scenes = Synthetic(8, image_size=generator.image_size, seed=5)
    images = [torch.from_numpy(scenes[i].image).permute(2, 0, 1) / 255 for i in range(8)]
    box = torch.tensor([[0.2, 0.2, 0.7, 0.7]]) * generator.image_size
    with torch.no_grad():
        noise = generator(torch.stack(images), Prompts(boxes=box.expand(8, 4)))
    assert noise.shape == (8, 3, generator.noise_size, generator.noise_size)
    assert 0.9 < noise.abs().mean() <= 1
    # Hardly any of it answers the picture. Whoever reads a card should know by how much.
    said = re.search(
        r"of two embedded scenes correlates by ([01]\.\d\d)", " ".join(card(name).split())
    )
    assert said is not None
    pairs = torch.corrcoef(noise.flatten(1)).triu(1)
    assert float(pairs.sum()) / 28 == pytest.approx(float(said[1]), abs=0.006)


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


def test_the_default_is_coloured_and_the_robust_one_grey_fine_texture() -> None:
    picture = Synthetic(1, image_size=128)[0]
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None] / 255
    noises = {}
    for name in TRAINED:
        generator = unseg.load_generator(name, device="cpu")
        with torch.no_grad():
            noises[name] = generator(image, Prompts(boxes=torch.tensor([[30.0, 30, 90, 90]])))
    assert noises["default"].std(1).mean() > 0.5
    assert not noises["robust"].std(1).any()
    assert F.avg_pool2d(noises["default"], 2).abs().mean() > 0.3
    assert F.avg_pool2d(noises["robust"], 2).abs().mean() < 1e-6


@pytest.mark.parametrize("steps", [(greyscale,), (jpeg_75,), (greyscale, jpeg_75)])
def test_the_robust_one_survives_greyscale_and_jpeg_better_than_the_default(
    steps: tuple[Callable[[Tensor], Tensor], ...],
) -> None:
    scenes = Synthetic(4, image_size=128, seed=3)
    kept = {}
    for name in TRAINED:
        generator = unseg.load_generator(name, device="cpu")
        share = []
        for scene in (scenes[i] for i in range(4)):
            result = unseg.protect(scene.image, generator=generator)
            noise, clean, protected = (
                torch.from_numpy(x).permute(2, 0, 1)[None] / 255
                for x in (result.noise, scene.image, result.image)
            )
            for step in steps:
                clean, protected = step(clean), step(protected)
            before, after = without_tint(noise), without_tint(protected - clean)
            share.append(float((before * after).sum() / before.square().sum()))
        kept[name] = np.mean(share)
    assert kept["default"] < 0.6
    assert kept["robust"] > 0.9


def without_tint(change: Tensor) -> Tensor:
    """What a constant shift of each colour leaves out of a change."""
    return change - change.mean((-2, -1), keepdim=True)


def test_all_of_them_are_small() -> None:
    sizes = [embedded_path(name).stat().st_size for name in EMBEDDED]
    assert sum(sizes) <= 25 * 2**20
    assert {Path(embedded_path(name)).suffix for name in EMBEDDED} == {".safetensors"}
