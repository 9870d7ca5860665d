"""The generators that come with the package: they load by name and are what their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import unseg
from unseg.data import Synthetic
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
    box = torch.tensor([[[20.0, 20.0, 90.0, 90.0]]])
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


def test_the_robust_one_makes_grey_noise_and_the_default_coloured() -> None:
    picture = Synthetic(1, image_size=96)[0]
    kinds = {}
    for name in EMBEDDED:
        result = unseg.protect(
            picture.image, mask=picture.mask, generator=unseg.load_generator(name, device="cpu")
        )
        inside = result.noise[picture.mask].astype(np.int64)
        kinds[name] = np.abs(inside - inside.mean(1, keepdims=True)).max()
    assert kinds["robust"] <= 1 < kinds["default"]


def test_all_of_them_are_small() -> None:
    sizes = [embedded_path(name).stat().st_size for name in EMBEDDED]
    assert sum(sizes) <= 25 * 2**20
    assert {Path(embedded_path(name)).suffix for name in EMBEDDED} == {".safetensors"}
