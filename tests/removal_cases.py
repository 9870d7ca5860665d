"""A grid of a tile and of clean scenes, for defences that learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unseg.config.evaluate import (
    BlockConfig,
    EvaluateConfig,
    MethodConfig,
    RecipeConfig,
    SyntheticConfig,
    VictimConfig,
    VictimDataConfig,
)

RECIPE = RecipeConfig(image_size=32, epochs=1, batch_size=4, lr=1e-2)


def scenes(seed: int, public: str | None = None) -> VictimDataConfig:
    """Six scenes to train on; `public` names the trainer's own data set."""
    synthetic = SyntheticConfig(num_train=6, num_test=2, image_size=32, seed=seed)
    return VictimDataConfig(synthetic=synthetic, public=public)


def grid_of(tmp_path: Path, *defences: str, **changes: object) -> EvaluateConfig:
    """Clean scenes and a tile under some defences; `changes` replace parts of the grid."""
    config = EvaluateConfig(
        run_dir=str(tmp_path / "run"),
        device="cpu",
        num_threads=1,
        num_examples=0,
        data={"scenes": scenes(1, "others"), "others": scenes(2)},
        methods={"tile": MethodConfig(method="tiled_sign", options={"noise.grid": 16})},
        victims={"unet": VictimConfig(arch="unet_plain", tiny=True, recipe=RECIPE)},
        grid=(
            BlockConfig(
                data=("scenes",), methods=("clean", "tile"), victims=("unet",), defences=defences
            ),
        ),
    )
    return replace(config, **changes)
