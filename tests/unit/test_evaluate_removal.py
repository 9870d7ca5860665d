"""Defences that learn, in an evaluation grid: what their trainer knows, and what is not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from removal_cases import grid_of, scenes

from unseg.config.evaluate import EvaluateConfig, MethodConfig
from unseg.utils.errors import UserError
from unseg.victims.data.defences import known_generator
from unseg.victims.data.splits import make_pictures
from unseg.victims.grid.cells import Cell, GridFolders, expand
from unseg.victims.grid.preflight import check_grid
from unseg.victims.grid.protected_sets import AGAIN, make_protected, make_protected_by_trainer
from unseg.victims.grid.run_cell import PictureSets
from unseg.victims.grid.run_grid import run_grid
from unseg.victims.report.aggregate import changes


def test_clean_pictures_have_no_noise_to_regenerate_and_alternatives_are_cells(
    tmp_path: Path,
) -> None:
    cells = expand(grid_of(tmp_path, "none", "iss", "regenerate", "same-generator"))
    assert [(c.method, c.defence) for c in cells] == [
        ("clean", "none"), ("clean", "jpeg-10"), ("clean", "grey"),
        ("tile", "none"), ("tile", "jpeg-10"), ("tile", "grey"),
        ("tile", "regenerate"), ("tile", "same-generator"),
    ]  # fmt: skip


def test_what_a_defence_lacks_is_said_before_any_work(tmp_path: Path) -> None:
    alone = {"scenes": scenes(1), "others": scenes(2)}
    with pytest.raises(UserError, match=r"data\.scenes\.public: defence regenerate"):
        check_grid(grid_of(tmp_path, "regenerate", data=alone))
    folder = {"tile": MethodConfig(method="folder", train_root=str(tmp_path))}
    with pytest.raises(UserError, match=r"methods\.tile: defence same-generator"):
        check_grid(grid_of(tmp_path, "same-generator", methods=folder))
    keyed = {"tile": MethodConfig(method="tiled_sign", options={"noise.key": "env:NO_SUCH_KEY"})}
    with pytest.raises(UserError, match=r"methods\.tile: noise\.key=env:NO_SUCH_KEY: there is no"):
        check_grid(grid_of(tmp_path, "none", methods=keyed))
    with pytest.raises(UserError, match=r"victims\.unet\.weights=none: defence frozen-2"):
        check_grid(grid_of(tmp_path, "frozen-2"))
    check_grid(grid_of(tmp_path, "none", "mean-residual-16", "notch", data=alone))


def test_a_data_set_that_is_not_there_is_no_public_one() -> None:
    data = {"scenes": scenes(1, "nobody")}
    config = replace(grid_of(Path(), "none"), data=data)
    assert ("data.scenes.public", "needs another data set; those are none") in config.problems()


def test_cells_of_other_defences_keep_their_folders(tmp_path: Path) -> None:
    alone = {"scenes": scenes(1), "others": scenes(2)}
    plain, public = (
        GridFolders(grid_of(tmp_path, "none", data=data))
        for data in (alone, {**alone, "scenes": scenes(1, "others")})
    )
    cell = Cell(data="scenes", method="tile", epsilon=8, epsilon_bg=2, victim="unet")
    assert plain.cell(cell) == public.cell(cell)
    other = GridFolders(
        grid_of(tmp_path, "none", data={"scenes": scenes(1, "others"), "others": scenes(3)})
    )
    pairs = replace(cell, defence="regenerate")
    assert other.cell(cell) == public.cell(cell)
    assert other.cell(pairs) != public.cell(pairs)


def images(
    config: EvaluateConfig, folders: GridFolders, cell: Cell, *, is_protected: bool
) -> torch.Tensor:
    """All training pictures of a cell, in its victim's frame."""
    found = PictureSets(config, folders).get(cell, "train", is_protected=is_protected)
    return found.load(range(len(found))).images


def test_the_same_generator_nearly_restores_the_clean_pictures(tmp_path: Path) -> None:
    config = grid_of(tmp_path, "same-generator")
    folders, (cell,) = GridFolders(config), expand(config)
    make_pictures(config.data["scenes"], folders.pictures("scenes"))
    make_protected(config, folders, cell)
    plain_cell = replace(cell, defence="none")
    clean, plain, restored = (
        images(config, folders, which, is_protected=is_protected).int()
        for which, is_protected in ((plain_cell, False), (plain_cell, True), (cell, True))
    )
    assert (plain - clean).abs().max() == 8
    assert (restored - clean).abs().float().mean() < 0.1  # where values are clipped, some is left
    assert (folders.protected(cell) / AGAIN).is_dir()


def test_a_trainer_without_the_key_computes_other_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWNER", "the owner's secret, long enough")
    options = {"noise.grid": 16, "noise.key": "env:OWNER"}
    methods = {"tile": MethodConfig(method="tiled_sign", options=options)}
    config = grid_of(tmp_path, "same-generator", methods=methods)
    folders, (cell,) = GridFolders(config), expand(config)
    make_pictures(config.data["scenes"], folders.pictures("scenes"))
    make_protected(config, folders, cell)
    clean, plain, removed = (
        images(config, folders, which, is_protected=is_protected).float()
        for which, is_protected in (
            (replace(cell, defence="none"), False), (replace(cell, defence="none"), True),
            (cell, True),
        )
    )  # fmt: skip
    noise, left = plain - clean, removed - clean
    assert (noise * left).sum() / noise.square().sum() > 0.9
    assert [change.linf for change in changes(config)] == [8]
    by_trainer = make_protected_by_trainer(config, folders, cell)
    files = [sorted(p.glob("**/*.png")) for p in (folders.protected(cell) / "train", by_trainer)]
    assert len(files[0]) == len(files[1]) == 6
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(*files, strict=True))
    monkeypatch.setenv("OWNER", "the owner's other secret")
    with pytest.raises(UserError, match=r"train: was made with another noise\.key"):
        make_protected(config, folders, cell)
    secret = b"the owner's"
    assert not any(secret in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_sets_are_shared_by_seeds_unless_a_defence_draws(tmp_path: Path) -> None:
    config = grid_of(tmp_path, "notch")
    folders, cells = GridFolders(config), expand(config)
    make_pictures(config.data["scenes"], folders.pictures("scenes"))
    sets = PictureSets(config, folders)
    first, second = (replace(cells[0], seed=seed) for seed in (0, 1))
    same = [sets.get(c, "train", is_protected=False) for c in (first, second)]
    assert same[0].sources[0] is same[1].sources[0]
    drawn = [
        images(config, folders, replace(c, defence="coin-2"), is_protected=False)
        for c in (first, second)
    ]
    assert not torch.equal(*drawn)


def test_every_learnt_defence_runs_in_a_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_generator, "CROP", 16)
    monkeypatch.setattr(known_generator, "STEPS", 2)
    config = grid_of(
        tmp_path, "oproj-3", "mean-residual-16", "jpeg-75+notch", "regenerate", "same-generator"
    )
    outcome = run_grid(config)
    assert (outcome.done, outcome.failed) == (8, {})
