"""The loop: phase isolation, accumulation, checkpoints, resuming, stopping."""

import os
import signal

import pytest
import torch
from engine_cases import (
    Loader,
    batch,
    batch_in_float64,
    gradients_of_step,
    in_float64,
    relative_difference,
    trainer,
)

from unseg.engine.bilevel import BilevelSchedule, micro_batches
from unseg.engine.checkpoint import CheckpointFolder, load_checkpoint
from unseg.engine.watch import NonFiniteLossError
from unseg.types import Phase
from unseg.utils.errors import UserError


def _weights(run) -> dict[str, torch.Tensor]:
    return {
        f"{phase.value}.{name}": value.clone()
        for phase, player in run.players.items()
        for name, value in player.state_dict().items()
    }


def _assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, different[:5]


@pytest.mark.parametrize("phase", list(Phase))
def test_the_idle_player_is_bit_identical_after_the_others_step(tmp_path, phase):
    run = trainer(tmp_path)
    for warm_up in Phase:  # momentum is there to drift on
        run.train_step(warm_up, batch(3))
    before = _weights(run)
    run.train_step(phase, batch(3))
    changed = {n for n, v in _weights(run).items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.startswith(f"{phase.value}.") for name in changed)
    if phase is Phase.GENERATOR:
        assert all("noise" in name for name in changed)


@pytest.mark.parametrize("phase", list(Phase))
def test_gradients_of_micro_batches_add_up_to_the_whole_step(tmp_path, phase):
    whole, parts = (
        gradients_of_step(
            in_float64(trainer(tmp_path / str(size), micro_batch_size=size)),
            phase,
            batch_in_float64(batch(5)),
        )
        for size in (None, 2)
    )
    assert relative_difference(whole, parts) < 1e-6


def test_micro_batches_cover_each_sample_once_and_an_empty_batch_has_none():
    parts = list(micro_batches(batch(5), 2))
    assert [len(p) for p in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([p.indices for p in parts]), torch.arange(5))
    assert [p.names for p in parts][2] == ("sample_4",)
    assert list(micro_batches(batch(0), 2)) == []
    assert list(micro_batches(batch(0), None)) == []


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_run_stopped_anywhere_and_continued_equals_an_uninterrupted_one(tmp_path, stop):
    # Rounds of three steps (1 surrogate, 2 generator) against epochs of two: step 1 and 4 are phase
    # changes, 2 and 4 epoch ends, 1, 3 and 5 in the middle of an epoch.
    schedule = BilevelSchedule("steps", period=3, surrogate=1)
    whole = trainer(tmp_path / "whole", schedule=schedule)
    assert whole.fit()
    first = trainer(tmp_path / "parts", schedule=schedule, steps=stop)
    assert first.fit()
    second = trainer(tmp_path / "parts", schedule=schedule, seed=9)
    second.restore(load_checkpoint(second.checkpoints.latest()))
    assert second.progress.step == stop
    assert second.fit()
    _assert_equal(_weights(whole), _weights(second))
    for phase in Phase:
        left, right = (r.optimizers[phase].state_dict()["state"] for r in (whole, second))
        for index, entries in left.items():
            _assert_equal(entries, right[index])


def test_a_checkpoint_has_the_promised_keys_and_loads_without_running_code(tmp_path):
    run = trainer(tmp_path, steps=2)
    run.fit()
    content = torch.load(run.checkpoints.latest(), weights_only=True)
    assert content["format"] == "unseg-checkpoint"
    wanted = (
        "kind config progress models generator surrogate optimizers schedulers rng best provenance"
    )
    assert set(wanted.split()) <= content.keys()
    assert content["progress"]["step"] == 2
    assert content["models"]["generator"]["size"] == "tiny"


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    run = trainer(tmp_path, steps=6, checkpoint_steps=1, validate_epochs=None, validate_steps=2)
    gaps = {2: 0.5, 4: 0.9, 6: 0.1}
    run.validate = lambda step: {"gap": gaps[step]}
    run.fit()
    names = sorted(p.name for p in run.checkpoints.folder.iterdir())
    assert names == ["best.pt", "step_00000005.pt", "step_00000006.pt"]
    best = load_checkpoint(run.checkpoints.folder / "best.pt")
    assert best["progress"]["step"] == 4
    assert best["best"] == {"gap": 0.9, "step": 4}


@pytest.mark.parametrize("phase", list(Phase))
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_place(tmp_path, phase):
    schedule = BilevelSchedule("steps", period=1, surrogate=int(phase is Phase.SURROGATE))
    run = trainer(tmp_path, schedule=schedule)
    with torch.no_grad():
        next(run.surrogate.parameters()).fill_(float("nan"))
    before = _weights(run)
    with pytest.raises(NonFiniteLossError) as caught:
        run.fit()
    message = str(caught.value)
    assert f"phase {phase.value}, epoch 0, step 0, samples sample_0, sample_1, sample_2" in message
    assert run.checkpoints.steps() == []
    after = _weights(run)
    assert all(torch.equal(after[n].nan_to_num(), v.nan_to_num()) for n, v in before.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(tmp_path, number):
    run = trainer(tmp_path, steps=6)
    original = run.train_step

    def step_and_signal(phase, data):
        original(phase, data)
        if run.progress.step == 2:
            os.kill(os.getpid(), number)

    run.train_step = step_and_signal
    before = signal.getsignal(number)
    assert run.fit() is False
    assert load_checkpoint(run.checkpoints.latest())["progress"]["step"] == 3
    assert signal.getsignal(number) is before


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so_in_one_line(tmp_path):
    import resource

    folder = CheckpointFolder(tmp_path / "checkpoints")
    old = folder.save({"kind": "test", "x": torch.zeros(10)}, step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails as a full disk does: in the middle of the write.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError) as caught:
            folder.save({"kind": "test", "x": torch.zeros(1_000_000)}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    message = str(caught.value)
    assert "\n" not in message
    assert "step_00000002.pt: checkpoint not written" in message
    assert "step_00000001.pt is intact" in message
    assert [p.name for p in folder.folder.iterdir()] == [old.name]
    assert load_checkpoint(old)["x"].shape == (10,)


def test_a_checkpoint_that_is_damaged_or_another_kind_of_file_is_refused_by_name(tmp_path):
    path = CheckpointFolder(tmp_path).save({"kind": "test"}, step=3)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="step_00000003.pt: is truncated or damaged .*; delete it"):
        load_checkpoint(path)
    torch.save({"format": "something"}, path)
    with pytest.raises(UserError, match="not a training checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_metrics_report_means_per_mask_of_each_player(tmp_path):
    import json

    run = trainer(tmp_path, steps=4, loader=Loader(6, 3))
    run.fit()
    run.metrics.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in records if any(k.startswith("train/") for k in r)]
    assert [r["step"] for r in train] == [1, 2, 3, 4]  # players alternate, so each step is a report
    first = train[0]
    assert first["train/surrogate/loss"] == pytest.approx(
        first["train/surrogate/loss_bce"] + first["train/surrogate/loss_dice"], rel=1e-5
    )
    assert {"train/data_time", "train/step_time", "train/memory_gib"} <= first.keys()
    assert first["train/surrogate/lr"] == pytest.approx(1e-3)
