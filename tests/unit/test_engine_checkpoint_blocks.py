"""`surrogate.checkpoint_blocks` saves memory and is no part of the method."""

import pytest
import torch
from engine_cases import batch

from unseg.config.load import load_config, to_dict
from unseg.config.method import method_differences
from unseg.config.train import TrainConfig
from unseg.engine.bilevel import STEPS, Game
from unseg.engine.players import build_players
from unseg.models.encoder import ImageEncoder
from unseg.types import Phase
from unseg.utils.errors import UserError

TINY = [
    "name=test", "data.source=synthetic", "schedule.steps=2",
    "generator.size=tiny", "generator.image_size=64",
    "surrogate.size=tiny", "surrogate.image_size=32",
]  # fmt: skip


def config_with(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, None, [*TINY, *overrides])


def gradients(phase: Phase, *overrides: str) -> dict[str, torch.Tensor]:
    players = build_players(config_with(*overrides), torch.device("cpu"), read_weights=False)
    losses = STEPS[phase](*players, batch(2), game=Game(num_points=64), epoch=0)
    losses.total().mean().backward()
    learner = players[0] if phase is Phase.GENERATOR else players[1]
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("phase", list(Phase))
def test_the_key_changes_no_gradient_of_either_player(monkeypatch, phase):
    plain = gradients(phase)
    runs = []
    block = ImageEncoder._block

    def counted(*arguments):
        runs.append(torch.is_grad_enabled())
        return block(*arguments)

    monkeypatch.setattr(ImageEncoder, "_block", counted)
    checkpointed = gradients(phase, "surrogate.checkpoint_blocks=true")
    depth = runs.count(True) // 2
    assert depth > 0, "the surrogate's blocks did not run with gradients"
    assert runs[-depth:] == [True] * depth, "no block ran again in the backward pass"
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name


def test_a_run_may_be_resumed_with_another_value():
    stored, wanted = (
        to_dict(config_with(f"surrogate.checkpoint_blocks={value}")) for value in ("false", "true")
    )
    assert method_differences(stored, wanted) == []
    del stored["surrogate"]["checkpoint_blocks"]  # a checkpoint from before the key existed
    assert method_differences(stored, wanted) == []
    stored["surrogate"]["image_size"] = 16
    assert len(method_differences(stored, wanted)) == 1


def test_a_surrogate_without_blocks_refuses_the_key():
    with pytest.raises(UserError, match=r"surrogate\.checkpoint_blocks.*resnet50"):
        config_with("surrogate.checkpoint_blocks=true", "surrogate.size=resnet50")
