"""Carriers: which colours and scales carry noise, and how its cells become pixels."""

from __future__ import annotations

import math

import pytest
import torch
from generate_cases import saturated_generator

from unseg.models.build import build_generator, generator_like
from unseg.noise import COLOURS, Carrier, compose, upsample_noise
from unseg.types import Prompts
from unseg.utils.errors import UserError

TEXTS = [
    "rgb",
    "luma",
    "yellow_blue",
    "opponent, sharp",
    "luma/2, cosine",
    "0.75 luma/2 + 0.25 opponent/4, sharp",
    "0.5 opponent + 0.5 opponent/4, sharp",
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("text", TEXTS)
def test_a_carrier_is_what_its_text_says_and_says_it_again(text):
    assert str(Carrier.parse(text)) == text
    assert Carrier.parse(text) == Carrier.parse(f"  {text.replace(' + ', '+')} ")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("grey", "no band of noise.*luma"),
        ("luma + opponent", "more than 1"),
        ("0.7 red + 0.4 yellow", "more than 1"),
        ("luma, round", "bilinear, cosine, sharp"),
        ("0 luma", "above 0"),
        ("luma/0", "at least 1"),
        ("", "no band"),
    ],
)
def test_a_text_that_is_no_carrier_is_refused_with_what_is_known(text, match):
    with pytest.raises(ValueError, match=match):
        Carrier.parse(text)


@pytest.mark.parametrize("text", TEXTS)
def test_noise_is_the_sum_of_the_bands_and_keeps_the_bound(text):
    carrier = Carrier.parse(text)
    fields = carrier.draw_signs(16, rng())
    noise = carrier.noise(fields)
    assert noise.abs().max() <= 1 + 1e-6
    for channel in range(3):
        expected = torch.zeros(16, 16)
        for band, field in zip(carrier.bands, fields[0], strict=True):
            expected += band.share * COLOURS[band.colour][channel] * field
        assert torch.allclose(noise[0, channel], expected)
    for band, field in zip(carrier.bands, fields[0], strict=True):
        for y in range(0, 16, band.cells):
            for x in range(0, 16, band.cells):
                assert field[y : y + band.cells, x : x + band.cells].unique().numel() == 1


def test_the_fields_of_three_channels_are_means_in_each_direction_over_each_cell():
    carrier = Carrier.parse("0.75 luma/2 + 0.25 opponent/4, sharp")
    noise = torch.randn(2, 3, 8, 8, generator=rng())
    fields = carrier.fields_of(noise)
    for y in range(8):
        for x in range(8):
            luma = noise[:, :, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2]
            assert torch.allclose(fields[:, 0, y, x], luma.mean((1, 2, 3)), atol=1e-6)
            red, green, blue = noise[
                :, :, y // 4 * 4 : y // 4 * 4 + 4, x // 4 * 4 : x // 4 * 4 + 4
            ].unbind(1)
            expected = ((red - green + blue) / 3).mean((1, 2))
            assert torch.allclose(fields[:, 1, y, x], expected, atol=1e-6)


@pytest.mark.parametrize("enlarge", ["bilinear", "cosine", "sharp"])
@pytest.mark.parametrize("size", [(21, 34), (34, 21), (8, 8), (5, 5)])
def test_cells_become_pixels_by_the_rule_of_each_shape(enlarge, size):
    noise = torch.rand(1, 2, 8, 8, generator=rng()) * 2 - 1
    found = upsample_noise(noise, size, enlarge=enlarge)
    side = max(size)
    assert found.shape[-2:] == size

    def taps(position: int) -> list[tuple[int, float]]:
        place = (position + 0.5) * 8 / side
        if enlarge == "sharp":
            return [(min(int(place), 7), 1.0)]
        left = math.floor(place - 0.5)
        weight = place - 0.5 - left
        if enlarge == "cosine":
            weight = (1 - math.cos(math.pi * weight)) / 2
        return [(min(max(left, 0), 7), 1 - weight), (min(left + 1, 7), weight)]

    for y in range(size[0]):
        for x in range(size[1]):
            expected = sum(wy * wx * noise[..., i, j] for i, wy in taps(y) for j, wx in taps(x))
            assert torch.allclose(found[..., y, x], expected, atol=1e-5), (y, x)


def test_sharp_checks_keep_all_their_strength_and_bilinear_ones_do_not():
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 3, 4, 4)
    strength = {
        shape: upsample_noise(checks, (32, 32), enlarge=shape).abs().mean().item()
        for shape in ("bilinear", "cosine", "sharp")
    }
    assert strength["bilinear"] < strength["cosine"] < strength["sharp"] == 1


def test_composition_enlarges_as_it_is_told():
    noise = Carrier.parse("opponent, sharp").noise(torch.ones(1, 1, 2, 2))
    image = torch.full((1, 3, 6, 6), 0.5)
    protected = compose(image, noise, region=torch.ones(1, 1, 6, 6), enlarge="sharp")
    change = (protected - image)[0] * 255
    assert torch.allclose(change, torch.tensor([8.0, -8.0, 8.0]).view(3, 1, 1).expand(3, 6, 6))


def test_grey_pictures_get_the_mean_or_the_brightness_of_an_opposing_band():
    noise = torch.randn(1, 3, 4, 4, generator=rng())
    assert torch.equal(Carrier.parse("rgb").grey(noise), noise.mean(1, keepdim=True))
    opponent = Carrier.parse("opponent, sharp")
    field = opponent.draw_signs(4, rng())
    assert torch.equal(opponent.grey(opponent.noise(field)), field)
    assert opponent.noise(field).mean(1).abs().max() < 1  # the mean would have cancelled


def test_a_generator_carries_its_noise_in_the_directions_of_its_carrier():
    torch.manual_seed(0)
    rgb = build_generator("tiny")
    opponent = build_generator("tiny", noise_carrier="opponent/2, sharp")
    opponent.load_state_dict(rgb.state_dict())
    image, prompts = torch.rand(2, 3, 128, 128), Prompts()
    with torch.no_grad():
        colours, found = rgb(image, prompts), opponent(image, prompts)
    assert torch.equal(found[:, 0], -found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
    raw = colours.double().atanh()
    field = torch.nn.functional.avg_pool2d((raw[:, :1] - raw[:, 1:2] + raw[:, 2:]) / 3, 2).tanh()
    field = field.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert (found[:, :1] - field).abs().max() < 1e-4


def test_files_from_before_carriers_had_names_are_read():
    arguments = saturated_generator().build_arguments
    arguments["noise_channels"] = arguments.pop("noise_carrier")
    assert str(generator_like(arguments).noise_carrier) == "rgb"


def test_cells_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(UserError, match="must divide the noise grid of 64"):
        build_generator("tiny", noise_carrier="luma/3")
