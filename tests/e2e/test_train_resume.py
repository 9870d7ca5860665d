"""Training as a user runs it: killed at any moment, continued by the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

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


def _command(repository: Path, folder: Path, *more: str) -> list[str]:
    config = repository / "configs/train/unseg_vit_b_debug.yaml"
    train = str(repository / "train.py")
    return [sys.executable, train, str(config), *OVERRIDES, f"output.dir={folder}", *more]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, env=_environment(), timeout=300, check=False
    )


def _checkpoints(folder: Path) -> Path:
    return folder / "unseg_vit_b_debug" / "checkpoints"


def _kill_after(command: list[str], folder: Path, step: int, number: signal.Signals) -> int:
    """Start the command and send a signal once the checkpoint of this step is there."""
    process = subprocess.Popen(
        command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wanted = _checkpoints(folder) / f"step_{step:08d}.pt"
    try:
        deadline = time.monotonic() + 240
        while not wanted.exists():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, repository) -> dict:
    """The last checkpoint of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = _run(*_command(repository, folder))
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
    "step", [1, 2, 3], ids=["in the surrogate's phase", "phase change", "generator, epoch end"]
)
def test_kill_9_and_the_same_command_give_bit_identical_weights(
    tmp_path, repository, uninterrupted, step
):
    command = _command(repository, tmp_path)
    assert _kill_after(command, tmp_path, step, signal.SIGKILL) == -signal.SIGKILL
    last = max(_checkpoints(tmp_path).glob("step_*.pt"))
    assert last.name < f"step_{STEPS:08d}.pt", "it had ended before it was killed"
    done = _run(*command)
    assert done.returncode == 0, done.stderr
    assert "continues at step" in done.stderr
    resumed = torch.load(_checkpoints(tmp_path) / f"step_{STEPS:08d}.pt", weights_only=True)
    for part in ("generator", "surrogate", "optimizers", "progress", "best"):
        _assert_same(uninterrupted[part], resumed[part], part)
    records = (tmp_path / "unseg_vit_b_debug" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(r)["step"] for r in records if "train/epoch" in r]
    assert steps == list(range(1, STEPS + 1))


def test_sigterm_saves_and_exits_130_and_another_method_is_refused(tmp_path, repository):
    command = _command(repository, tmp_path, "schedule.steps=1000")
    assert _kill_after(command, tmp_path, 1, signal.SIGTERM) == 130
    saved = max(_checkpoints(tmp_path).glob("step_*.pt"))
    assert torch.load(saved, weights_only=True)["progress"]["step"] == int(saved.stem[5:])
    refused = _run(*command, "noise.epsilon=4", "optim.generator.lr=1e-3")
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert str(saved) in line
    assert "noise.epsilon: 1.0 in the checkpoint, 4.0 now" in line
    assert "optim.generator.lr: 0.0001 in the checkpoint, 0.001 now" in line
