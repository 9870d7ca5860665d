"""Methods without a bound, defences of the training and whole mixtures in an evaluation grid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unseg.config.evaluate import (
    BlockConfig,
    EvaluateConfig,
    MethodConfig,
    RecipeConfig,
    SyntheticConfig,
    VictimConfig,
    VictimDataConfig,
)
from unseg.protection.writing.manifest import read_manifest
from unseg.victims.data.splits import make_pictures
from unseg.victims.grid.cells import Cell, GridFolders, expand
from unseg.victims.grid.protected_sets import make_protected
from unseg.victims.grid.run_cell import RESULT
from unseg.victims.grid.run_grid import run_grid
from unseg.victims.report.aggregate import Key, ScoreRow, Spread
from unseg.victims.report.elements import Table, budget_title, method_title
from unseg.victims.report.mixture_section import mixture_section
from unseg.victims.report.rows import board_rows

RECIPE = RecipeConfig(image_size=16, epochs=6, batch_size=4, lr=1e-2)


def grid_of(tmp_path: Path, *blocks: BlockConfig, **methods: MethodConfig) -> EvaluateConfig:
    return EvaluateConfig(
        run_dir=str(tmp_path / "run"),
        device="cpu",
        num_threads=1,
        num_examples=0,
        data={"scenes": VictimDataConfig(synthetic=SyntheticConfig(num_train=6, num_test=2,
                                                             image_size=32))},
        methods=methods,
        victims={"unet": VictimConfig(arch="unet_plain", tiny=True, recipe=RECIPE)},
        grid=blocks,
    )  # fmt: skip


def block(**choice: object) -> BlockConfig:
    return BlockConfig(data=("scenes",), victims=("unet",), **choice)


def test_a_method_without_a_bound_has_one_row_whatever_the_budgets(tmp_path: Path) -> None:
    config = grid_of(
        tmp_path,
        block(methods=("signs", "cuda"), budgets=("8/2", "16/4")),
        signs=MethodConfig(method="random_sign"),
        cuda=MethodConfig(method="cuda", options={"noise.psnr": 35.0}),
    )
    cells = expand(config)
    assert [cell.epsilon for cell in cells if cell.method == "signs"] == [8, 16]
    assert [cell.epsilon for cell in cells if cell.method == "cuda"] == [0]
    titles = [method_title(config, Key.of(cell)) for cell in cells]
    assert titles == ["signs 8/2", "signs 16/4", "cuda at 35 dB"]
    assert budget_title(config, "cuda", 0, 0) == "its own"


def test_a_protected_set_reaches_the_wanted_psnr_without_a_generator(tmp_path: Path) -> None:
    config = grid_of(
        tmp_path,
        block(methods=("synper",)),
        synper=MethodConfig(
            method="synper", generator=None, options={"noise.psnr": 33.0, "output.format": "png"}
        ),
    )
    layout, cell = GridFolders(config), expand(config)[0]
    make_pictures(config.data["scenes"], layout.pictures("scenes"))
    make_protected(config, layout, cell)
    figures = json.loads((layout.protected(cell) / "train.json").read_text())
    assert figures["psnr"] == pytest.approx(33, abs=0.1)
    assert figures["l2"] > 0
    assert len(list(read_manifest(layout.protected(cell) / "train"))) == 6
    settings = (layout.protected(cell) / "train/config.yaml").read_text()
    assert "classes: region" in settings  # the victim learns two classes, so two are protected


def test_all_pictures_clean_is_the_method_clean(tmp_path: Path) -> None:
    signs = MethodConfig(method="random_sign", options={"noise.grid": 8})
    shares = grid_of(tmp_path, block(methods=("signs",), clean_shares=(0.0, 0.4, 1.0)), signs=signs)
    cells = expand(shares)
    assert [(c.method, c.clean_share, c.is_twin) for c in cells] == [
        ("signs", 0.0, False), ("signs", 0.4, False), ("clean", 0.4, True), ("clean", 0.0, False),
    ]  # fmt: skip
    plain = grid_of(tmp_path, block(methods=("clean",)), signs=signs)
    assert expand(plain)[0] in cells


def test_the_table_of_mixtures_runs_from_none_to_all_clean(tmp_path: Path) -> None:
    config = grid_of(
        tmp_path,
        block(methods=("signs",), clean_shares=(0.0, 0.2, 0.8, 1.0)),
        signs=MethodConfig(method="random_sign"),
    )
    scores = {0.0: 0.1, 0.2: 0.5, 0.8: 0.7}
    rows = []
    for cell in expand(config):
        score = 0.75 if cell.method == "clean" else scores[cell.clean_share]
        row = ScoreRow(Key.of(cell), selected=Spread.of([score]), clean=Spread.of([0.75]))
        if cell.clean_share and not cell.is_twin:
            row.clean_part = Spread.of([0.6])
        rows.append(row)
    (section,) = mixture_section(rows, config)
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    assert [line[4:] for line in table.rows] == [
        ("0 %", "10.0", "–", "–", "–"),
        ("20 %", "50.0", "–", "60.0", "-10.0"),
        ("80 %", "70.0", "–", "60.0", "+10.0"),
        ("100 %", "75.0", "–", "75.0", "–"),
    ]


def test_a_defence_of_the_training_changes_what_is_learnt_and_not_the_pictures(
    tmp_path: Path,
) -> None:
    defences = ("none", "adversarial", "ddc_at", "ueraser_like")
    config = grid_of(tmp_path, block(methods=("clean",), defences=defences))
    outcome = run_grid(config)
    assert (outcome.done, outcome.failed) == (4, {})
    losses = set()
    for cell in expand(config):
        assert isinstance(cell, Cell)
        result = json.loads((GridFolders(config).cell(cell) / RESULT).read_text())
        losses.add(result["curve"][-1]["loss"])
    assert len(losses) == 4


def test_a_defence_with_alternatives_is_a_row_of_the_data_with_the_better_ones_results(
    tmp_path: Path,
) -> None:
    config = grid_of(tmp_path, block(methods=("clean",), defences=("none", "iss")))
    assert not run_grid(config).failed
    rows = {row.defence: row for row in board_rows(config)}
    assert set(rows) == {"none", "iss", "jpeg-10", "grey"}
    better = max((rows["jpeg-10"], rows["grey"]), key=lambda row: row.selected.mean)
    assert rows["iss"].selected == better.selected
    assert rows["iss"].curve == better.curve
