"""Defences that change the training: what the attack may do, what each learns from, resuming."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from victim_cases import fit_copying, tensor_set

from unseg.config.evaluate import RecipeConfig
from unseg.utils.errors import UserError
from unseg.victims.data.defences import ATTACK_EPSILON as EPSILON
from unseg.victims.data.defences import (
    parse_defence,
    picture_defence,
    ready_defence,
    training_defences,
)
from unseg.victims.data.defences.base import PublishedPicture
from unseg.victims.data.segments import Target
from unseg.victims.data.tensor_set import IGNORED_LABEL
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import ObjectVictim, Victim
from unseg.victims.training.adversarial import STEPS, as_tested, bim
from unseg.victims.training.class_map_task import ClassMapTask, segmentation_loss
from unseg.victims.training.ddc_at import ExtraBranch
from unseg.victims.training.fit import FitState
from unseg.victims.training.training_loss import TrainingLoss
from unseg.victims.training.ueraser import erase, plasma

RECIPE = RecipeConfig(image_size=16, epochs=3, batch_size=4, lr=3e-3, scale=(1.0, 1.0))
DEFENCES = ("adversarial", "ddc_at", "ueraser_like", "ueraser_like-2")


def tiny_victim(seed: int = 0) -> Victim:
    torch.manual_seed(seed)
    return build_victim("unet_plain", num_classes=2, tiny=True)


@functools.cache
def trained_weights() -> dict[str, Tensor]:
    return fit_with("none", epochs=10)[1].state_dict()


def trained_victim() -> Victim:
    victim = tiny_victim()
    victim.load_state_dict(trained_weights())
    return victim


def fit_with(
    defence: str,
    *,
    victim: Victim | None = None,
    epochs: int = 3,
    state: FitState | None = None,
    stop: tuple[int, int] | None = None,
) -> tuple[FitState, Victim]:
    victim = tiny_victim() if victim is None else victim
    data, recipe = tensor_set(8), replace(RECIPE, epochs=epochs)
    states = fit_copying(
        victim, data, recipe=recipe, clean_test=data, defence=defence, state=state, stop=stop
    )
    return states[-1], victim


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    data = tensor_set(count)
    return data.images.float() / 255, data.labels.long()


def loss_of(victim: Victim, target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: segmentation_loss(victim(images), target)


def test_the_attack_stays_in_its_ball_and_in_the_picture_and_raises_the_loss() -> None:
    victim = trained_victim().eval()
    picture, target = batch()
    picture[:, :, :4] = 0.0
    picture[:, :, 12:] = 1.0
    attacked = bim(picture, loss_of(victim, target), epsilon=EPSILON)
    assert (attacked - picture).abs().max() <= EPSILON + 1e-7
    assert (attacked - picture).abs().max() > 0.9 * EPSILON
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    signs = torch.randint(0, 2, picture.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    random = (picture + EPSILON * signs).clamp(0, 1)
    with torch.no_grad():
        clean, noisy, hurt = (loss_of(victim, target)(x) for x in (picture, random, attacked))
    assert hurt > clean + 0.01
    assert hurt - clean > 3 * (noisy - clean).abs()


def test_the_attack_is_the_textbook_iteration() -> None:
    victim = trained_victim().eval()
    picture, target = batch(2)
    expected = picture.clone()
    for _ in range(STEPS):
        leaf = expected.clone().requires_grad_()
        loss_of(victim, target)(leaf).backward()
        assert leaf.grad is not None
        moved = expected + 0.03 / 3 * leaf.grad.sign()
        expected = (picture + (moved - picture).clamp(-0.03, 0.03)).clamp(0, 1)
    found = bim(picture, loss_of(victim, target), epsilon=0.03)
    assert (found - expected).abs().max() < 1e-6
    victim.zero_grad(set_to_none=True)
    bim(picture, loss_of(victim, target), epsilon=EPSILON)
    assert all(p.grad is None for p in victim.parameters())  # the attack trains nothing


def test_void_pixels_do_not_steer_the_attack() -> None:
    """A per-pixel victim: its gradient at a pixel comes from that pixel's label alone."""
    torch.manual_seed(0)
    victim = Victim(nn.Conv2d(3, 2, 1), num_classes=2, divisor=1)
    picture, target = batch()
    target[0, :8] = IGNORED_LABEL
    target[1] = IGNORED_LABEL
    training = TrainingLoss(victim, ClassMapTask(2), RECIPE, "adversarial", seed=0)
    attacked = training.attacked(picture, target, 2)
    assert torch.equal(attacked[0, :, :8], picture[0, :, :8])
    assert torch.equal(attacked[1], picture[1])
    assert (attacked[0, :, 8:] != picture[0, :, 8:]).any(0).all()


@pytest.mark.parametrize("count", [4, 5, 1])
def test_half_of_each_batch_stays_clean(count: int) -> None:
    picture, target = batch(count)
    training = TrainingLoss(trained_victim(), ClassMapTask(2), RECIPE, "adversarial", seed=0)
    learnt = []

    def note(pictures: Tensor, *_: Any) -> Tensor:
        learnt.append(pictures)
        return training.task.loss(training.victim, pictures, target, dice=False)

    training._forward = note
    training.step(picture, target, torch.Generator())
    differs = (learnt[0] != picture).flatten(1).any(1)
    assert differs.tolist() == [i < count // 2 for i in range(count)]


def test_the_attack_moves_no_running_statistics_and_leaves_the_victim_training() -> None:
    victim = tiny_victim().train()
    before = copy.deepcopy(victim.state_dict())
    picture, target = batch()
    training = TrainingLoss(victim, ClassMapTask(2), RECIPE, "adversarial", seed=0)
    training.attacked(picture, target, 2)
    assert victim.training
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    victim.eval()
    with as_tested(victim):
        pass
    assert not victim.training


def test_the_extra_branch_learns_the_pixels_whose_prediction_the_attack_changes() -> None:
    victim = trained_victim()
    training = TrainingLoss(victim, ClassMapTask(2), RECIPE, "ddc_at-0.2", seed=0)
    picture, target = batch()
    attacked = training.attacked(picture, target, 2)
    is_changed = training.changed_pixels(picture[:2], attacked[:2])
    assert 0.02 < is_changed.float().mean() < 0.98
    victim.train()
    found = training.step(picture, target, torch.Generator())
    # A slow reference, pixel by pixel, on the same batch statistics.
    assert training.branch is not None
    logits = victim(attacked)
    branch_logits = training.branch((16, 16))
    total = 0.0
    for i in range(4):
        for y in range(16):
            for x in range(16):
                is_extra = i < 2 and bool(is_changed[i, y, x])
                chosen = (branch_logits if is_extra else logits)[i, :, y, x]
                total -= float(chosen.detach().log_softmax(0)[target[i, y, x]])
    assert float(found.detach()) == pytest.approx(total / target.numel(), rel=1e-4)


def test_the_extra_branch_is_no_part_of_the_victim_and_is_dropped() -> None:
    names = set(tiny_victim().state_dict())
    state, victim = fit_with("ddc_at", epochs=1)
    assert set(victim.state_dict()) == names == set(state.selected)
    assert state.branch
    assert not any(module._forward_pre_hooks for module in victim.modules())
    fresh = ExtraBranch(tiny_victim(), seed=5).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in state.branch.items())


@pytest.mark.parametrize("arch", ["unet", "deeplabv1_vgg16", "deeplabv3_resnet50", "segformer_b0"])
def test_any_victim_of_label_maps_can_carry_the_extra_branch(arch: str) -> None:
    victim = build_victim(arch, num_classes=3, tiny=True)
    branch = ExtraBranch(victim, seed=0)
    picture = torch.rand(2, 3, 40, 56)
    logits = victim(picture)
    extra = branch((40, 56))
    assert extra.shape == logits.shape == (2, 3, 40, 56)
    extra.sum().backward()
    reached = [p for p in victim.parameters() if p.grad is not None and p.grad.any()]
    assert len(reached) > 5  # the branch trains the features that both share


def test_a_victim_without_a_last_convolution_is_refused() -> None:
    victim = Victim(nn.Conv2d(3, 7, 1), num_classes=2)
    with pytest.raises(UserError, match="use adversarial"):
        ExtraBranch(victim, seed=0)


class OnlyInTraining(ObjectVictim):
    """Like most detectors, it has a loss in training mode alone."""

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        assert self.training
        assert len(images) == len(targets)
        return self.network(images).mean()


class Objects:
    """The part of a task that a step needs."""

    def loss(
        self, victim: ObjectVictim, images: Tensor, target: Any, *, dice: bool, portion: Any = None
    ) -> Tensor:
        del dice, portion
        return victim.loss(images, target)


@pytest.mark.parametrize("defence", ["adversarial", "ueraser_like-2"])
def test_victims_that_find_objects_are_defended_through_their_own_loss(defence: str) -> None:
    victim = OnlyInTraining(nn.Conv2d(3, 2, 1), num_classes=2).train()
    picture, _ = batch(5)
    target = [Target.of(torch.zeros(0, 16, 16, dtype=torch.bool), torch.zeros(0).long())] * 5
    training = TrainingLoss(victim, Objects(), RECIPE, defence, seed=0)
    training.step(picture, target, torch.Generator().manual_seed(0))
    assert all(p.grad is not None for p in victim.parameters())
    if defence == "adversarial":
        attacked = training.attacked(picture, target, 2)
        assert (attacked != picture).flatten(1).any(1).tolist() == [True, True, False, False, False]
    with pytest.raises(UserError, match="use adversarial"):
        TrainingLoss(victim, Objects(), RECIPE, "ddc_at", seed=0)


def test_erasing_keeps_range_and_shape_and_follows_its_generator() -> None:
    picture, _ = batch(6)
    first, again = (erase(picture, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == picture.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first != picture).flatten(1).any(1).sum() >= 5
    assert not torch.equal(first, erase(picture, generator=torch.Generator().manual_seed(4)))


def test_a_plasma_spans_its_range_and_is_rougher_where_asked() -> None:
    def cloud(roughness: float) -> Tensor:
        return plasma(64, 48, roughness=roughness, generator=torch.Generator().manual_seed(0))

    for one in (cloud(0.3), cloud(0.7)):
        assert one.shape == (64, 48)
        assert (float(one.min()), float(one.max())) == (0, 1)
    steps = [float((c[1:] - c[:-1]).abs().mean()) for c in (cloud(0.3), cloud(0.7))]
    assert steps[1] > 1.5 * steps[0]


def test_of_several_draws_the_victim_gets_the_one_that_it_finds_hardest() -> None:
    victim, (picture, target) = trained_victim(), batch()
    training = TrainingLoss(victim, ClassMapTask(2), RECIPE, "ueraser_like-3", seed=0)
    chosen = training.erased(picture, target, torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(1)
    draws = [erase(picture, generator=rng) for _ in range(3)]
    victim.eval()
    with torch.no_grad():
        losses = torch.tensor(
            [[float(loss_of(victim, target[i : i + 1])(d[i : i + 1])) for i in range(4)]
             for d in draws]
        )  # fmt: skip
    for i, best in enumerate(losses.argmax(0).tolist()):
        assert torch.equal(chosen[i], draws[best][i])


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_tiny_victim_still_learns_the_clean_pictures(defence: str) -> None:
    state, _ = fit_with(defence, epochs=15)
    assert state.curve[-1]["clean_test"] > 0.8
    assert state.curve[-1]["loss"] < 0.7 * state.curve[0]["loss"]


@pytest.mark.parametrize("stop", [(1, 0), (1, 1)])
@pytest.mark.parametrize("defence", DEFENCES)
def test_a_stopped_fit_goes_on_bit_for_bit(defence: str, stop: tuple[int, int]) -> None:
    whole, _ = fit_with(defence)
    stopped, _ = fit_with(defence, stop=stop)
    resumed, _ = fit_with(defence, victim=tiny_victim(7), state=stopped)
    assert whole.curve == resumed.curve
    for part in ("victim", "branch"):
        for name, value in getattr(whole, part).items():
            assert torch.equal(value, getattr(resumed, part)[name]), (part, name)


def test_training_defences_join_those_on_pictures() -> None:
    text = "jpeg-75+adversarial+blur-1"
    assert parse_defence(text) == (("jpeg", 75.0), ("adversarial", 0.03), ("blur", 1.0))
    assert training_defences(text) == {"adversarial": 0.03}
    assert picture_defence(text) == "jpeg-75+blur-1"
    assert picture_defence("ddc_at") == "none"
    assert training_defences("ueraser_like-5") == {"ueraser_like": 5.0}
    picture = PublishedPicture(torch.rand(3, 16, 16), torch.zeros(16, 16, dtype=torch.uint8), "p")
    assert torch.equal(ready_defence("adversarial")(picture), picture.image)
    assert torch.equal(ready_defence(text)(picture), ready_defence("jpeg-75+blur-1")(picture))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adversarial+ddc_at", "contains adversarial"),
        ("adversarial+adversarial-0.1", "none is given twice"),
        ("ueraser_like-1.5", "whole number"),
        ("adversarial-8", "0.001 to 0.5"),
        ("pgd", "ueraser_like"),
    ],
)
def test_faulty_training_defences_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_defence(text)
