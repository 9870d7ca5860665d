"""Training a victim: repeatable, resumable, honest about its epochs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from victim_cases import RECIPE, fit_copying, tensor_set

from unseg.victims.data.tensor_set import IGNORED_LABEL
from unseg.victims.networks.registry import build_victim
from unseg.victims.training.class_map_task import segmentation_loss
from unseg.victims.training.fit import FitState, learning_rate


def run(
    state: FitState | None = None, stop: tuple[int, int] | None = None, **changes: object
) -> FitState:
    torch.manual_seed(0)
    victim = build_victim("unet_plain", num_classes=2, tiny=True)
    arguments = {"recipe": RECIPE, "validation": tensor_set(4, 1)} | changes
    return fit_copying(
        victim, tensor_set(10), clean_test=tensor_set(6, 2), state=state, stop=stop, **arguments
    )[-1]


@pytest.mark.parametrize("stop", [(2, 0), (2, 1), (0, 2)])
def test_a_stopped_fit_goes_on_bit_for_bit(stop: tuple[int, int]) -> None:
    whole, resumed = run(), run(run(stop=stop))
    assert whole.curve == resumed.curve
    assert whole.selected_epoch == resumed.selected_epoch
    for name in ("victim", "selected"):
        for key, value in getattr(whole, name).items():
            assert torch.equal(value, getattr(resumed, name)[key]), (name, key)


def test_the_epoch_is_chosen_by_validation_and_not_by_the_clean_test() -> None:
    state = run()
    best = max(state.curve, key=lambda row: row["validation"])
    assert state.selected_epoch == best["epoch"]
    assert [row["epoch"] for row in state.curve] == [1, 2, 3, 4]


def test_a_length_in_steps_is_the_same_training_on_a_set_of_any_size() -> None:
    assert RECIPE.length(3) == (4, 1)
    by_steps = dataclasses.replace(RECIPE, epochs=None, steps=12)
    state = run(recipe=by_steps)  # 10 pictures, batches of 4: 3 steps an epoch
    assert state.curve == run().curve
    assert dataclasses.replace(by_steps, steps=400).length(13) == (31, 4)
    assert list(dataclasses.replace(RECIPE, steps=12).problems())


def test_loss_ignores_void_and_survives_a_batch_without_labels() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 4))
    target[:, :2] = IGNORED_LABEL
    found = segmentation_loss(logits, target)
    kept = target != IGNORED_LABEL
    log_p = logits.log_softmax(1).permute(0, 2, 3, 1)[kept]
    expected = -log_p.gather(1, target[kept][:, None]).mean()
    assert torch.allclose(found, expected)
    for dice in (False, True):
        nothing = segmentation_loss(logits, torch.full_like(target, IGNORED_LABEL), dice=dice)
        nothing.backward()
        assert torch.isfinite(nothing)


def test_learning_rate_starts_low_peaks_and_ends_at_zero() -> None:
    rates = [learning_rate(RECIPE, p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(RECIPE.lr)
    assert rates[25] == max(rates)
    assert rates[0] < 0.05 * RECIPE.lr
    assert rates[-1] == pytest.approx(0)
