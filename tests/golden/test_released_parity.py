"""Our modules against the released program's: names, shapes and stored outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden.parity import deterministic

from unseg.models import build_generator, build_surrogate
from unseg.noise import compose
from unseg.types import Prompts

PARITY_DIR = Path(__file__).parent / "parity"


@pytest.fixture(scope="module")
def golden():
    with np.load(PARITY_DIR / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def meta():
    """Both players at vit_b without memory behind their tensors."""
    with torch.device("meta"):
        return {"generator": build_generator("vit_b"), "surrogate": build_surrogate("vit_b")}


def _filled(build, **arguments):
    # Built without memory: drawing random weights first would cost more than the forward pass of
    # the surrogate. The normalisation is not part of the state, so it is made again.
    with torch.device("meta"):
        model = build("vit_b", **arguments)
    weights = deterministic.fill(model.state_dict())
    model.load_state_dict(weights, assign=True)
    model.normalise = type(model.normalise)()
    return model


def _assert_close(found, expected, tolerance):
    difference = np.abs(np.asarray(found, np.float64) - expected.astype(np.float64))
    assert difference.max() <= tolerance, (
        f"max difference {difference.max():.2e}, mean {difference.mean():.2e}"
    )


@pytest.mark.parametrize(("player", "count"), [("generator", 359), ("surrogate", 301)])
def test_state_names_and_shapes_are_the_released_ones_in_their_order(meta, player, count):
    expected = json.loads((PARITY_DIR / f"official_{player}_keys.json").read_text())
    found = {name: list(value.shape) for name, value in meta[player].state_dict().items()}
    assert len(expected) == count
    assert found == expected


def test_parameter_counts_are_those_of_the_paper_s_generator(meta):
    generator = meta["generator"]
    trainable = generator.trainable_parameters()
    assert sum(p.numel() for p in generator.parameters()) == 100_988_016
    assert [tuple(b.shape) for n, b in generator.named_buffers() if "normalise" not in n] == [
        (2, 128)
    ]
    assert sum(p.numel() for p in trainable.values()) == 7_252_544
    assert all("noise" in name for name in trainable)


@pytest.mark.golden
@pytest.mark.slow
def test_generator_reproduces_the_released_noise_and_protected_image(golden):
    generator = _filled(build_generator, noise_readout="official")
    image = torch.from_numpy(deterministic.image(375, 500, 0.1)).permute(2, 0, 1)[None].float()
    mask = torch.from_numpy(deterministic.mask(375, 500))[None, None].float()
    square, mask = F.pad(image, (0, 0, 0, 125)), F.pad(mask, (0, 0, 0, 125))
    square = F.interpolate(square, (1024, 1024), mode="bilinear", align_corners=False) / 255
    mask = F.interpolate(mask, (1024, 1024), mode="nearest")
    mask = F.interpolate(mask, (256, 256), mode="bilinear", align_corners=False).round()
    with torch.no_grad():
        noise = generator(square, Prompts(mask_inputs=255 * mask))
    region = F.interpolate(mask, (500, 500), mode="bilinear", align_corners=False).round()
    protected = compose(image / 255, noise, region=region[..., :375, :], epsilon=8, epsilon_bg=2)
    levels = (255 * protected[0]).round().permute(1, 2, 0)

    _assert_close(noise[0], golden["gen_mask_375x500/noise"], 2e-3)
    _assert_close(levels, golden["gen_mask_375x500/protected"], 1)


@pytest.mark.golden
@pytest.mark.slow
def test_surrogate_reproduces_the_released_logits(golden):
    surrogate = _filled(build_surrogate)
    image = torch.from_numpy(deterministic.image(512, 512, 0.2)).permute(2, 0, 1)[None] / 255
    y, x = np.nonzero(deterministic.mask(512, 512))
    box = torch.tensor([[x.min(), y.min(), x.max(), y.max()]], dtype=torch.float32)
    with torch.no_grad():
        logits = surrogate(image, Prompts(boxes=box))

    _assert_close(logits[0], golden["sur_box/logits"], 5e-3)
