"""Training as a user runs it: killed at any moment, continued by the same command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from dying import Death, FileMoment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STEPS = 8
OVERRIDES = (
    "device=cpu",
    "data.num_synthetic=12",
    "data.synthetic_size=64",
    "generator.image_size=64",
    "surrogate.image_size=32",
    "loss.num_points=64",
    "schedule.unit=steps",
    "schedule.period=4",
    "schedule.surrogate=2",  # phases change at steps 2, 4 and 6; epochs end at 3 and 6
    "schedule.epochs=null",
    f"schedule.steps={STEPS}",
    "validate.unit=steps",
    "validate.every=100",
    "validate.limit=2",
    "validate.num_images=0",
    "output.checkpoint_every=1",
    "output.keep_last=100",
    "output.log_every=1",
)


def _call(repository: Path, folder: Path, *more: str) -> list[str]:
    config = repository / "configs/train/unseg_vit_b_debug.yaml"
    train = str(repository / "train.py")
    return [train, str(config), *OVERRIDES, f"output.dir={folder}", *more]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def _checkpoints(folder: Path) -> Path:
    return folder / "unseg_vit_b_debug" / "checkpoints"


def _death_at(step: int, moment: FileMoment, number: signal.Signals = signal.SIGKILL) -> Death:
    """A signal while the checkpoint of this step is written."""
    return Death(f"step_{step:08d}.pt", moment, number=number)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, repository) -> dict:
    """The last checkpoint of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = _run([sys.executable, *_call(repository, folder)])
    assert done.returncode == 0, done.stderr
    return torch.load(_checkpoints(folder) / f"step_{STEPS:08d}.pt", weights_only=True)


def _assert_same(left, right, path="") -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            _assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), path
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            _assert_same(a, b, f"{path}.{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{path}: max difference {(left - right).abs().max()}"
    else:
        assert left == right, path


@pytest.mark.parametrize(
    ("death", "last"),
    [(_death_at(1, "named"), 1), (_death_at(3, "half"), 2), (_death_at(3, "named"), 3)],
    ids=["in the surrogate's phase", "phase change", "generator, epoch end"],
)
def test_kill_9_and_the_same_command_give_bit_identical_weights(
    tmp_path, repository, uninterrupted, death, last
):
    call = _call(repository, tmp_path)
    died = _run(death.command(*call))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert max(_checkpoints(tmp_path).glob("step_*.pt")).name == f"step_{last:08d}.pt"
    done = _run([sys.executable, *call])
    assert done.returncode == 0, done.stderr
    assert f"continues at step {last} of {STEPS}" in done.stderr
    resumed = torch.load(_checkpoints(tmp_path) / f"step_{STEPS:08d}.pt", weights_only=True)
    for part in ("generator", "surrogate", "optimizers", "progress", "best"):
        _assert_same(uninterrupted[part], resumed[part], part)
    records = (tmp_path / "unseg_vit_b_debug" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(r)["step"] for r in records if "train/epoch" in r]
    assert steps == list(range(1, STEPS + 1))


def test_sigterm_saves_and_exits_130_and_another_method_is_refused(tmp_path, repository):
    call = _call(repository, tmp_path, "schedule.steps=1000")
    died = _run(_death_at(1, "named", signal.SIGTERM).command(*call))
    assert died.returncode == 130, died.stderr
    saved = max(_checkpoints(tmp_path).glob("step_*.pt"))
    assert torch.load(saved, weights_only=True)["progress"]["step"] == int(saved.stem[5:])
    refused = _run([sys.executable, *call, "noise.epsilon=4", "optim.generator.lr=1e-3"])
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert str(saved) in line
    assert "noise.epsilon: 1.0 in the checkpoint, 4.0 now" in line
    assert "optim.generator.lr: 0.0001 in the checkpoint, 0.001 now" in line
