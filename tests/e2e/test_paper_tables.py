"""Every victim of the paper's tables takes a step of its own recipe, in a tiny frame, on scenes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from unseg.commands.evaluate import main as evaluate
from unseg.config.evaluate import EvaluateConfig
from unseg.config.load import load_config, to_dict

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
PAPER = sorted((ROOT / "configs/evaluate").glob("paper_*.yaml"))

SCENES = {"num_train": 6, "num_test": 2, "image_size": 32}
TINY = {
    "image_size": 64, "crop": 64, "epochs": None, "steps": 1, "batch_size": 4, "eval_every": None,
    "eval_batch_size": 2,
}  # fmt: skip
"""Sizes and lengths alone: the update rule, the loss and the frame's rule are the table's."""


def one_step_each() -> dict[str, Any]:
    """One grid of one cell for every kind of cell that the tables hold."""
    data: dict[str, Any] = {}
    victims: dict[str, Any] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for path in PAPER:
        config = to_dict(load_config(EvaluateConfig, path))
        for block in config["grid"]:
            for section, name in ((d, v) for d in block["data"] for v in block["victims"]):
                task = config["data"][section]["task"]
                victim = config["victims"][name]
                recipe = victim["recipe"] | TINY
                small = {"tiny": True, "weights": "none", "weights_path": None, "recipe": recipe}
                victim = {**victim, **small, "title": None}
                defences = block["defences"]
                rules = [recipe[key] for key in ("optimizer", "loss", "schedule", "score_at")]
                kind = json.dumps([task, victim["arch"], defences, rules])
                if kind in kinds:
                    continue
                label = f"{path.stem.removeprefix('paper_')}-{len(victims)}"
                data[task] = {"task": task, "synthetic": SCENES, "validation_share": 0.34}
                victims[label] = victim
                kinds[kind] = {
                    "data": [task], "methods": ["clean"], "victims": [label], "defences": defences
                }  # fmt: skip
    return {
        "title": "One step each", "device": "cpu", "num_threads": 1, "num_examples": 0,
        "data": data, "victims": victims, "grid": list(kinds.values()),
    }  # fmt: skip


def test_every_victim_of_the_paper_takes_a_step(tmp_path: Path) -> None:
    grid = one_step_each()
    archs = {victim["arch"] for victim in grid["victims"].values()}
    assert len(archs) == 13
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid | {"run_dir": str(tmp_path / "run")}))
    assert evaluate([str(path)]) == 0
    results = [json.loads(p.read_text()) for p in tmp_path.glob("run/cells/*/result.json")]
    assert len(results) == sum(len(block["defences"]) for block in grid["grid"])
    for result in results:
        assert len(result["curve"]) == 1
        assert math.isfinite(result["curve"][0]["loss"])
