"""A whole grid: twice, killed, shared, with a failing cell; its report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dying import Death

from unseg.commands.evaluate import main as evaluate
from unseg.commands.report import main as report

pytestmark = pytest.mark.e2e

EPOCHS = 3
GRID = {
    "device": "cpu",
    "num_threads": 1,
    "checkpoint_seconds": 0,
    "data": {"scenes": {"synthetic": {"num_train": 16, "num_test": 4, "image_size": 32}}},
    "methods": {"random_sign": {"method": "random_sign", "options": {"noise.grid": 16}}},
    "victims": {
        "unet": {
            "arch": "unet_plain",
            "tiny": True,
            "recipe": {"image_size": 32, "epochs": EPOCHS, "batch_size": 8, "lr": 0.003},
        }
    },
    "grid": [
        {
            "data": ["scenes"],
            "methods": ["clean", "random_sign"],
            "victims": ["unet"],
            "seeds": [0, 1],
        },
        {
            "data": ["scenes"],
            "methods": ["random_sign"],
            "victims": ["unet"],
            "defences": ["grey+jpeg-75"],
            "clean_shares": [0.5],
        },
    ],
    "published": [
        {"data": "scenes", "victim": "unet", "method": "random_sign", "score": 12.5, "source": "x"}
    ],
}


def write(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**GRID, "run_dir": str(folder / "run"), **changes}))
    return path


def start(*command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of an undisturbed run in this process."""
    path = write(tmp_path_factory.mktemp("undisturbed"))
    assert evaluate([str(path)]) == 0
    return (path.parent / "run" / "report.md").read_text()


def test_the_report_holds_every_row_and_the_page_needs_no_other_file(
    tmp_path: Path, table: str
) -> None:
    path = write(tmp_path)
    assert evaluate([str(path)]) == 0
    run = tmp_path / "run"
    assert (run / "report.md").read_text() == table  # the same grid again: the same table
    texts = ("random_sign 8/2", "grey+jpeg-75", "clean, 50 % of the pictures", "12.5", "dE00, 99 %")
    for text in texts:
        assert text in table
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == table.count("](figures/")
    assert not re.search(r'(src|href)="(?!data:)', page)
    results = [json.loads(p.read_text()) for p in run.glob("cells/*/result.json")]
    assert len(results) == 6
    assert all(len(r["curve"]) == EPOCHS for r in results)

    before = {p: p.stat().st_mtime_ns for p in run.glob("cells/*/result.json")}
    assert evaluate([str(path)]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in run.glob("cells/*/result.json")}

    moved = tmp_path / "moved"
    run.rename(moved)
    (moved / "report.md").unlink()
    assert report([str(moved)]) == 0
    assert (moved / "report.md").read_text() == table


def test_killed_at_any_time_and_run_again_by_two_it_gives_the_same_table(
    tmp_path: Path, table: str
) -> None:
    path = write(tmp_path)
    cells = tmp_path / "run" / "cells"
    call = ("unseg.cli", "evaluate", str(path))
    # Inside an epoch of the second cell: a cell writes its state after each of its steps, two an
    # epoch.
    death = Death("state.pt", "named", 2 * EPOCHS + 3)
    assert start(*death.command(*call)).wait() == -signal.SIGKILL
    assert len(list(cells.glob("*/result.json"))) == len(list(cells.glob("*/state.pt"))) == 1
    assert not (tmp_path / "run" / "report.md").exists()
    # As if it had been killed between writing the result and removing the state, too.
    next(cells.glob("*/result.json")).with_name("state.pt").touch()
    # And in the middle of a write.
    unfinished = next(p for p in cells.glob("*/state.pt") if p.stat().st_size)
    unfinished.with_name(".state.pt.0123456789ab.tmp").write_bytes(bytes(100))
    pair = [start(sys.executable, "-m", *call) for _ in range(2)]
    assert [p.wait() for p in pair] == [0, 0]
    assert (tmp_path / "run" / "report.md").read_text() == table
    assert not list(cells.glob("*/state.pt"))
    assert not list(cells.glob("*/.*.tmp"))


def test_asked_to_stop_inside_an_epoch_it_saves_and_goes_on_to_the_same_table(
    tmp_path: Path, table: str
) -> None:
    path = write(tmp_path, checkpoint_seconds=1e6, checkpoint_steps=1)
    death = Death("state.pt", "named", 1, signal.SIGTERM)
    assert start(*death.command("unseg.cli", "evaluate", str(path))).wait() == 130
    assert len(list(tmp_path.glob("run/cells/*/state.pt"))) == 1
    assert evaluate([str(path)]) == 0
    assert (tmp_path / "run" / "report.md").read_text() == table


def test_a_failing_cell_is_reported_and_the_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {**GRID["methods"], "bad": {"method": "folder", "train_root": str(tmp_path)}}
    grid = [{"data": ["scenes"], "methods": ["bad", "clean"], "victims": ["unet"]}]
    path = write(tmp_path, methods=methods, grid=grid)
    assert evaluate([str(path)]) == 1
    assert "holds no protected picture of" in capsys.readouterr().err
    run = tmp_path / "run"
    assert len(list(run.glob("cells/*clean*/result.json"))) == 1
    assert "Traceback" in next(iter(run.glob("cells/*bad*/failure.txt"))).read_text()
    assert "1 cells of the grid have no result yet" in (run / "report.md").read_text()


def test_a_folder_protected_before_gives_the_scores_of_protecting_here(tmp_path: Path) -> None:
    grid = [{"data": ["scenes"], "methods": ["random_sign"], "victims": ["unet"]}]
    first = write(tmp_path / "a", grid=grid)
    assert evaluate([str(first)]) == 0
    made = next((tmp_path / "a/run/cache/protected").iterdir())
    ready = {"method": "folder", "train_root": str(made / "train"), "test_root": str(made / "test")}
    grid = [{"data": ["scenes"], "methods": ["ready"], "victims": ["unet"]}]
    second = write(tmp_path / "b", methods={"ready": ready}, grid=grid)
    assert evaluate([str(second)]) == 0
    scores = [
        json.loads(next((tmp_path / name / "run/cells").glob("*/result.json")).read_text())[
            "scores"
        ]
        for name in "ab"
    ]
    assert scores[0] == scores[1]


def test_wrong_names_are_one_line_each_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victims = {"unet": {**GRID["victims"]["unet"], "arch": "unett"}}
    grid = [{"data": ["scenes"], "methods": ["clean"], "victims": ["unet"], "defences": ["fog"]}]
    assert evaluate([str(write(tmp_path, victims=victims, grid=grid))]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 2
    assert "unknown 'fog'" in error[0]
    assert "victims.unet.arch=unett" in error[1]
    assert not (tmp_path / "run").exists()
    grid[0]["methods"] = ["clen"]
    assert evaluate([str(write(tmp_path, grid=grid))]) == 2
    assert "unknown 'clen'" in capsys.readouterr().err
    methods = {
        "signs": {"method": "randomsign"},
        "loud": {"method": "unseg", "options": {"noise.psnr": 35, "noise.patch": 16}},
        "typo": {"method": "fixed_sign", "options": {"noise.grod": 16}},
    }
    grid[0]["methods"] = list(methods)
    for dry_run in (False, True):
        assert evaluate([str(write(tmp_path, methods=methods, grid=grid, dry_run=dry_run))]) == 2
        error = [line for line in capsys.readouterr().err.splitlines() if "fog" not in line]
        assert len(error) == 4
        assert "methods.loud: noise.psnr=35.0: is read by synper, ar, cuda alone" in error[0]
        assert "methods.loud: noise.patch=16: is read by ar alone, not by unseg" in error[1]
        assert "methods.signs.method=randomsign: must be one of" in error[2]
        assert "did you mean 'random_sign'?" in error[2]
        assert "methods.typo: noise.grod=16: unknown key; did you mean 'grid'?" in error[3]
    assert report([str(tmp_path)]) == 2
