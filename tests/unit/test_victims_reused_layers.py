"""Defences by layers: early ones stay frozen, the last one is retrained on clean pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from removal_cases import grid_of
from torch import Tensor
from victim_cases import StateCopies, tensor_set

from unseg.config.evaluate import RecipeConfig
from unseg.utils.errors import UserError
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.grid.cells import GridFolders, expand
from unseg.victims.grid.run_cell import RESULT, PictureSets, assemble
from unseg.victims.grid.run_grid import run_grid
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.report.aggregate import collect
from unseg.victims.training.class_map_task import ClassMapTask
from unseg.victims.training.fit import FitState, fit
from unseg.victims.training.frozen import early_parts
from unseg.victims.training.last_layer import class_head

RECIPE = RecipeConfig(image_size=16, epochs=2, batch_size=4, lr=3e-3, scale=(1.0, 1.0))


def victim_of(arch: str, seed: int = 0) -> Victim:
    torch.manual_seed(seed)
    return build_victim(arch, num_classes=2, tiny=True)


def fitted(
    victim: Victim,
    defence: str,
    *,
    clean: TensorSet | None = None,
    state: FitState | None = None,
    stop: int | None = None,
) -> FitState:
    """The state after a fit; `stop`: as it was kept after so many epochs."""
    keeper = StateCopies()
    data = tensor_set(8)
    final = fit(
        victim, data, recipe=RECIPE, task=ClassMapTask(2), validation=None, clean_test=data,
        clean_part=clean, seed=5, defence=defence, state=state,
        keeper=keeper,
    )  # fmt: skip
    kept = [state for state in keeper.states if state.step == 0]
    return final if stop is None else kept[stop - 1]


def weights(victim: Victim) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in victim.state_dict().items()}


def test_frozen_stages_keep_every_number_and_the_others_learn() -> None:
    victim = victim_of("unet_efficientnet_lite0")
    encoder = victim.network.encoder.model
    parts = early_parts(victim, 2)
    assert parts == [encoder.conv_stem, encoder.bn1, encoder.blocks[0], encoder.blocks[1]]
    before = weights(victim)
    fitted(victim, "frozen-2")
    frozen = tuple(
        f"network.encoder.model.{n}" for n in ("conv_stem", "bn1", "blocks.0", "blocks.1")
    )
    for name, value in victim.state_dict().items():
        if name.startswith(tuple(f"{n}." for n in frozen)):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(
        victim.state_dict()["network.encoder.model.blocks.2.0.conv_pw.weight"],
        before["network.encoder.model.blocks.2.0.conv_pw.weight"],
    )
    assert all(p.requires_grad for p in victim.parameters())


def test_victims_without_such_stages_are_refused() -> None:
    with pytest.raises(UserError, match="EfficientNet or ResNet"):
        early_parts(victim_of("unet_plain"), 1)
    with pytest.raises(UserError, match="has 4 stages"):
        early_parts(build_victim("unet", num_classes=2), 5)


def test_the_last_layer_alone_learns_from_the_clean_pictures() -> None:
    plain, retrained = victim_of("unet_plain"), victim_of("unet_plain")
    fitted(plain, "none")
    state = fitted(retrained, "dfr-50", clean=tensor_set(4, seed=1))
    head = {id(p) for p in class_head(retrained, defence="dfr").parameters()}
    for (name, mine), theirs in zip(retrained.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs) != (id(mine) in head), name
    for name, value in retrained.state_dict().items():
        assert torch.equal(value, state.selected[name]), name  # what was scored is what is left


def test_a_stopped_fit_with_a_clean_last_layer_goes_on_bit_for_bit() -> None:
    clean = tensor_set(4, seed=1)
    whole = fitted(victim_of("unet_plain"), "dfr-50", clean=clean)
    stopped = fitted(victim_of("unet_plain"), "dfr-50", clean=clean, stop=1)
    victim = victim_of("unet_plain", seed=7)
    resumed = fitted(victim, "dfr-50", clean=clean, state=stopped)
    assert whole.curve == resumed.curve
    for name, value in whole.selected.items():
        assert torch.equal(value, resumed.selected[name]), name


def test_the_clean_pictures_of_a_trainer_grow_with_their_share(tmp_path: Path) -> None:
    config = grid_of(tmp_path, "dfr-20", "dfr-60")
    run_grid(config)
    small, large = [c for c in expand(config) if c.method == "tile"]
    sets = PictureSets(config, GridFolders(config))
    parts = [assemble(cell, config, sets) for cell in (small, large)]
    keys = [set(part.clean_part.keys) for part in parts if part.clean_part is not None]
    assert len(keys[0]) < len(keys[1])
    assert keys[0] < keys[1] <= set(parts[0].train.keys)
    clean = sets.get(replace(large, method="clean"), "train", is_protected=False)
    first = parts[1].clean_part
    assert first is not None
    assert torch.equal(first.load([0]).images, clean.load([clean.keys.index(first.keys[0])]).images)


def test_a_report_has_a_row_of_the_better_alternative(tmp_path: Path) -> None:
    config = grid_of(tmp_path, "none", "iss")
    assert run_grid(config).failed == {}
    folders = GridFolders(config)
    for cell in expand(config):
        path = folders.cell(cell) / RESULT
        result = json.loads(path.read_text())
        score = {"none": 0.1, "jpeg-10": 0.2, "grey": 0.3 if cell.method == "tile" else 0.15}
        result["scores"]["selected"]["clean_test"]["score"] = score[cell.defence]
        path.write_text(json.dumps(result))
    rows, _ = collect(config)
    better = {row.key.method: row for row in rows if row.key.defence == "iss"}
    assert better["tile"].selected is not None
    assert better["tile"].selected.mean == pytest.approx(0.3)
    assert better["tile"].clean is not None
    assert better["tile"].clean.mean == pytest.approx(0.2)
    assert better["tile"].is_clean_defended
