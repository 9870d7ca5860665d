"""The game's rules: who learns, from what picture, towards which target."""

import pytest
import torch
import torch.nn.functional as F
from engine_cases import batch, players, trainer
from torch.nn.utils import parameters_to_vector

from unseg.degrade import gaussian_blur
from unseg.engine.bilevel import (
    BilevelSchedule,
    Game,
    RateSchedule,
    generator_step,
    hard_region,
    shrink,
    surrogate_logits,
    surrogate_step,
)
from unseg.engine.random_degrade import RandomDegrade
from unseg.losses import choose_points, mask_losses
from unseg.noise import compose
from unseg.types import Phase
from unseg.utils.seed import torch_generator


def test_the_papers_schedule_gives_seven_of_27_epochs_to_the_surrogate():
    schedule = BilevelSchedule(unit="epochs", period=4, surrogate=1)
    phases = [schedule.phase(epoch=e, step=999) for e in range(27)]
    assert [e for e, p in enumerate(phases) if p is Phase.SURROGATE] == [0, 4, 8, 12, 16, 20, 24]


def test_a_schedule_in_steps_ignores_epochs():
    schedule = BilevelSchedule(unit="steps", period=200, surrogate=50)
    phases = [schedule.phase(epoch=s % 7, step=s) for s in range(400)]
    assert phases == 2 * (50 * [Phase.SURROGATE] + 150 * [Phase.GENERATOR])


def test_a_schedule_in_steps_can_give_the_surrogate_three_steps_for_each_of_the_generator(tmp_path):
    run = trainer(tmp_path, steps=8, schedule=BilevelSchedule("steps", period=4, surrogate=3))
    taken, step = [], run.train_step

    def watched(phase, data):
        before = {who: parameters_to_vector(p.parameters()) for who, p in run.players.items()}
        result = step(phase, data)
        moved = {
            who
            for who, p in run.players.items()
            if not torch.equal(before[who], parameters_to_vector(p.parameters()))
        }
        assert moved == {phase}
        taken.append(phase)
        return result

    run.train_step = watched
    run.fit()
    run.metrics.close()
    assert taken == 2 * (3 * [Phase.SURROGATE] + [Phase.GENERATOR])


def test_the_learning_rate_drops_at_epoch_20_for_both_players():
    rate = RateSchedule(unit="epochs", drop_at=(20,), drop_factor=0.1)
    factors = [rate.factor(epoch=e, step=10_000) for e in (0, 19, 20, 26)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1])
    assert RateSchedule("steps", (5, 10), 0.5).factor(epoch=99, step=10) == 0.25


def test_the_surrogates_copy_is_the_mean_of_blocks_and_its_region_is_hard():
    mask = torch.rand(2, 1, 8, 8)
    assert torch.allclose(shrink(mask, 4), F.interpolate(mask, (4, 4), mode="bilinear"), atol=1e-6)
    edge = torch.zeros(1, 1, 4, 4)
    edge[..., 1:] = 1  # the border halves a block: 0.5 becomes 0
    assert hard_region(edge, 2)[0, 0].tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match="no whole multiple of 3"):
        shrink(mask, 3)


def test_the_surrogate_sees_the_bounded_noise_over_the_whole_square():
    generator, surrogate = players()
    seen = {}
    surrogate.register_forward_pre_hook(lambda m, args: seen.update(image=args[0]))
    data = batch(2)
    noise = torch.ones(2, 3, generator.noise_size, generator.noise_size)
    surrogate_logits(surrogate, data, noise, game=Game(epsilon=8, epsilon_bg=2), epoch=0)
    change = 255 * (seen["image"] - shrink(data.image, 32))
    region = hard_region(data.mask, 32).expand(-1, 3, -1, -1)
    assert change.min() >= 0
    torch.testing.assert_close(change, 6 * region + 2, atol=1e-3, rtol=0)


@pytest.mark.parametrize("label_modification", [True, False])
def test_the_generators_target_is_all_ones_unless_label_modification_is_off(label_modification):
    generator, surrogate = players()
    data = batch(3)
    game = Game(num_points=50, label_modification=label_modification)
    losses = generator_step(generator, surrogate, data, game=game, epoch=2)
    with torch.no_grad():
        noise = generator(data.image, data.generator_prompts)
        logits, mask = surrogate_logits(surrogate, data, noise, game=game, epoch=2)
    sources = [torch_generator(42, 2, i, "points") for i in range(3)]
    points = choose_points(logits, num_points=50, generators=sources)
    target = torch.ones_like(mask) if label_modification else mask
    expected = mask_losses(logits, target, points)
    torch.testing.assert_close(losses.bce, expected.bce)
    torch.testing.assert_close(losses.dice, expected.dice)


def test_degradations_meet_pictures_at_the_size_at_which_they_are_published():
    generator, surrogate = players()
    seen = {}
    surrogate.register_forward_pre_hook(lambda m, args: seen.update(image=args[0]))
    data = batch(2)
    noise = torch.rand(2, 3, generator.noise_size, generator.noise_size) * 2 - 1
    game = Game(epsilon=8, epsilon_bg=2, degrade=RandomDegrade(blur=1, blur_sigma=(0.7, 0.7)))
    surrogate_logits(surrogate, data, noise, game=game, epoch=0)
    published = compose(data.image, noise, region=torch.round(data.mask), epsilon=8, epsilon_bg=2)
    wanted = shrink(gaussian_blur(published, 0.7), 32)
    assert torch.allclose(seen["image"], wanted, atol=1e-6)
    assert not torch.allclose(gaussian_blur(shrink(published, 32), 0.7), wanted, atol=1e-2)


def test_each_step_gives_gradients_to_its_own_player_alone():
    generator, surrogate = players()
    data, game = batch(3), Game(num_points=50)
    frozen = {n for n, p in surrogate.named_parameters() if not p.requires_grad}
    generator_step(generator, surrogate, data, game=game, epoch=0).total().sum().backward()
    trained = generator.trainable_parameters()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    assert all(p.grad is None for n, p in generator.named_parameters() if n not in trained)
    assert all(p.grad is None for p in surrogate.parameters())
    assert frozen == {n for n, p in surrogate.named_parameters() if not p.requires_grad}
    for parameter in trained.values():
        parameter.grad = None
    surrogate_step(generator, surrogate, data, game=game, epoch=0).total().sum().backward()
    assert all(p.grad is None for p in generator.parameters())
    assert any(p.grad is not None for p in surrogate.parameters())


def test_bfloat16_changes_the_losses_little():
    generator, surrogate = players()
    data = batch(2)
    losses = [
        generator_step(
            generator, surrogate, data, game=Game(num_points=200, autocast=on), epoch=0
        ).total()
        for on in (False, True)
    ]
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(*losses, atol=0.05, rtol=0.05)


def test_degradations_of_an_image_do_not_depend_on_its_neighbours():
    degrade = RandomDegrade(greyscale=0.5, down_up=0.5, blur=0.5, jpeg=0.5)
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def sources(rows):
        return [torch_generator(7, i) for i in rows]

    whole = degrade(image, sources(range(4)))
    assert torch.equal(whole[2:], degrade(image[2:], sources((2, 3))))
    assert degrade(image[:0], []).shape == (0, 3, 32, 32)


def test_degradations_happen_as_often_as_asked_and_pass_gradients():
    image = torch.rand(1, 3, 16, 16).expand(200, -1, -1, -1).clone().requires_grad_()
    result = RandomDegrade(jpeg=0.3)(image, [torch_generator(i) for i in range(200)])
    changed = (result != image).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(0.3, abs=0.1)
    result.sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))
    assert RandomDegrade().is_off
    assert not RandomDegrade(blur=0.1).is_off
    assert not RandomDegrade(tint=0.1).is_off


def test_a_tint_shifts_each_colour_by_one_number_and_leaves_other_draws_alone():
    image = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def sources():
        return [torch_generator(3, i) for i in range(50)]

    shift = RandomDegrade(tint=0.5, tint_levels=20)(image, sources()) - image
    assert torch.allclose(shift, shift[..., :1, :1].expand_as(shift), atol=1e-6)
    levels = 255 * shift[..., 0, 0]
    assert 15 < levels.abs().max() <= 20
    is_tinted = levels.abs().amax(1) > 1e-4
    assert is_tinted.float().mean().item() == pytest.approx(0.5, abs=0.2)
    assert (levels[is_tinted].std(1) > 0).all()
    both = RandomDegrade(blur=0.4, tint=0.5, tint_levels=20)(image, sources())
    blurred = RandomDegrade(blur=0.4)(image, sources())
    torch.testing.assert_close(both - blurred, shift, atol=1e-6, rtol=0)
