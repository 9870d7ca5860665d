"""The games with varied sizes, as their tiny twins: whole, and interrupted and continued."""

from pathlib import Path

import pytest
import torch

from unseg.config.load import load_config
from unseg.config.train import TrainConfig
from unseg.engine.run import train

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS = 6  # the twins' rounds are of four, so both players learn before and after the break


def run(config: Path, folder: Path, *more: str) -> Path:
    """Train, and give back the folder with the checkpoints."""
    overrides = [
        f"output.dir={folder}",
        "output.checkpoint_every=3",
        "validate.num_images=0",
        *more,
    ]
    assert train(load_config(TrainConfig, config, overrides))
    return folder / config.stem / "checkpoints"


@pytest.mark.parametrize("name", ["lab_silent_debug", "lab_silent_pretrained_debug"])
def test_a_continued_game_ends_with_the_weights_of_one_that_was_not_interrupted(
    name, tmp_path, repository
):
    config = repository / "configs/train" / f"{name}.yaml"
    whole = run(config, tmp_path / "whole")
    half = whole / "step_00000003.pt"
    continued = run(config, tmp_path / "continued", f"resume_from={half}")
    assert not (continued / half.name).exists(), "the second run began anew"
    first, second, before = (
        torch.load(path, weights_only=True)
        for path in (*(folder / f"step_{STEPS:08d}.pt" for folder in (whole, continued)), half)
    )
    for player in ("generator", "surrogate"):
        assert first[player].keys() == second[player].keys()
        assert all(torch.equal(first[player][k], second[player][k]) for k in first[player])
        assert any(not torch.equal(first[player][k], before[player][k]) for k in first[player])
