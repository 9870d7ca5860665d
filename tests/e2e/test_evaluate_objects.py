"""A grid of tasks that know objects: run, killed and resumed, reported, planned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dying import Death

from unseg.commands.evaluate import main as evaluate
from unseg.config.evaluate import EvaluateConfig
from unseg.config.load import load_config, to_dict
from unseg.victims.grid.saved_state import StateSaver
from unseg.victims.training.fit import FitState

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
DEBUG = ROOT / "configs/evaluate/objects_debug.yaml"


def read(path: Path) -> dict[str, Any]:
    """A configuration with its base and its defaults."""
    return to_dict(load_config(EvaluateConfig, path))


def write(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    grid = read(DEBUG) | {"run_dir": str(folder / "run"), "checkpoint_seconds": 0, **changes}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    return folder / "grid.yaml"


def test_the_debug_grid_resumes_after_a_kill_and_reports_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path)
    run = tmp_path / "run"
    command = Death("state.pt", "named").command("unseg.cli", "evaluate", str(path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert died.returncode == -signal.SIGKILL
    states = {p.parent for p in run.glob("cells/*/state.pt")}
    assert states

    assert evaluate([str(path)]) == 0
    results = {p.parent: json.loads(p.read_text()) for p in run.glob("cells/*/result.json")}
    assert len(results) == 6
    assert states <= set(results)
    assert {r["metric"] for r in results.values()} == {"PQ", "box AP", "mIoU of prompted masks"}
    for result in results.values():
        assert [row["epoch"] for row in result["curve"]] == [1, 2]
        for name in ("clean_test", "protected_test"):
            scores = result["scores"]["selected"].get(name, {"score": 0})
            assert all(0 <= value <= 1 for value in scores.values()), scores
    report = (run / "report.md").read_text()
    for text in ("panoptic (PQ)", "detection (box AP)", "interactive (mIoU", "Further scores"):
        assert text in report
    assert "predictions_panoptic" in report
    capsys.readouterr()


def test_killed_or_not_a_panoptic_cell_ends_the_same(tmp_path: Path) -> None:
    block = [{"data": ["panoptic"], "methods": ["clean"], "victims": ["mask2former"]}]
    curves = []
    for name in ("whole", "stopped"):
        path = write(tmp_path / name, grid=block)
        if name == "stopped":
            stop_after_first_epoch(path)
        assert evaluate([str(path)]) == 0
        result = next((tmp_path / name / "run/cells").glob("*/result.json"))
        curves.append(json.loads(result.read_text())["curve"])
    assert curves[0] == curves[1]


def stop_after_first_epoch(path: Path) -> None:
    """Run a grid in this process until its first state is written, as a kill would leave it."""
    write_state = StateSaver.keep

    def write_and_stop(saver: StateSaver, state: FitState) -> None:
        write_state(saver, state)
        if state.epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateSaver, "keep", write_and_stop)
        assert evaluate([str(path)]) == 130
    assert list(path.parent.glob("run/cells/*/state.pt"))


def test_a_victim_that_cannot_do_the_task_is_named_with_those_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = [{"data": ["panoptic"], "methods": ["clean"], "victims": ["rtdetr"]}]
    assert evaluate([str(write(tmp_path, grid=block))]) == 2
    error = capsys.readouterr().err
    assert "data.panoptic.task=panoptic: victim rtdetr (RT-DETRv2" in error
    assert "those that can are mask2former_resnet50, mask2former_swin_t" in error


def test_a_dry_run_says_what_is_missing_and_what_it_would_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victims = read(DEBUG)["victims"]
    victims["sam_hq"] |= {"weights": "path", "weights_path": str(tmp_path / "sam_hq.pth")}
    path = write(tmp_path, victims=victims, expected_gpu_hours=2.5)
    assert evaluate([str(path), "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "expected GPU hours: 2.5"
    assert lines[2].startswith("missing: victims.sam_hq.weights_path=")
    assert lines[-1] == "missing in all: 1"
    assert not (tmp_path / "run").exists()


PAPER = sorted((ROOT / "configs/evaluate").glob("paper_*.yaml"))


def test_every_table_of_the_paper_has_a_configuration() -> None:
    names = {path.stem.removeprefix("paper_") for path in PAPER}
    assert names == {
        "voc", "ade20k", "coco", "cityscapes", "interactive", "remote", "medical", "detection",
        "defences", "mixtures", "prompts",
    }  # fmt: skip


@pytest.mark.parametrize("path", PAPER, ids=lambda p: p.stem)
def test_a_table_of_the_paper_dry_runs_without_its_data(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate([str(path), "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert "expected GPU hours: not stated" not in printed
    assert "expected GPU hours: " in printed
    assert "missing: data." in printed
    assert "missing: methods.unseg.generator=weight_dir/" in printed
    published = read(path)["published"]
    # The paper shows two of its results as bars without numbers.
    if path.stem not in ("paper_interactive", "paper_remote"):
        assert {entry["method"] for entry in published} >= {"unseg"}
