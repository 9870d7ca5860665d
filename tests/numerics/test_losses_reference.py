"""The loss against plain loops in float64, its gradients, and where it looks."""

import math

import numpy as np
import pytest
import torch

from unseg.losses import bce_loss, choose_points, dice_loss, mask_losses, point_values


def _bilinear(values: np.ndarray, x: float, y: float) -> float:
    """The map at (x, y) in [0, 1], pixel centres at half integers, zeros outside."""
    height, width = values.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    total = 0.0
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - abs(column - c)) * (1 - abs(row - r))
        if 0 <= r < height and 0 <= c < width:
            total += weight * float(values[r, c])
    return total


def _loop_losses(logits, target, points) -> tuple[list[float], list[float]]:
    all_bce, all_dice = [], []
    for i in range(len(logits)):
        bce, overlap, size = 0.0, 0.0, 0.0
        for x, y in points[i].tolist():
            z = _bilinear(logits[i, 0].numpy(), x, y)
            t = _bilinear(target[i, 0].numpy(), x, y)
            p = 1 / (1 + math.exp(-z))
            bce -= t * math.log(p) + (1 - t) * math.log(1 - p)
            overlap += p * t
            size += p + t
        all_bce.append(bce / len(points[i]))
        all_dice.append(1 - (2 * overlap + 1) / (size + 1))
    return all_bce, all_dice


def _case(seed: int = 0, batch: int = 3):
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, 1, 7, 9, dtype=torch.float64, generator=source)
    target = torch.rand(batch, 1, 14, 18, dtype=torch.float64, generator=source)
    points = torch.rand(batch, 40, 2, dtype=torch.float64, generator=source)
    return logits, target, points


def test_losses_equal_a_loop_in_float64():
    logits, target, points = _case()
    points[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.999, 0.0], [0.01, 0.99]])
    losses = mask_losses(logits, target, points)
    bce, dice = _loop_losses(logits, target, points)
    np.testing.assert_allclose(losses.bce.numpy(), bce, rtol=1e-10)
    np.testing.assert_allclose(losses.dice.numpy(), dice, rtol=1e-10)


def test_losses_have_the_gradients_of_finite_differences():
    logits, target, points = _case(batch=2)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: mask_losses(x, target, points).total(bce_weight=0.7, dice_weight=1.3), logits
    )


def test_ones_as_target_lose_weight_within_half_a_pixel_of_the_border():
    ones = torch.ones(1, 1, 8, 8)
    points = torch.tensor([[[0.5, 0.5], [0.0, 0.5], [0.0, 0.0]]])
    assert point_values(ones, points).tolist() == [[1.0, 0.5, 0.25]]


def test_perfect_logits_have_no_loss_and_inverted_ones_a_large_one():
    target = (torch.arange(16.0) < 8).float().expand(2, 16)
    right, wrong = 50 * (2 * target - 1), -50 * (2 * target - 1)
    assert bce_loss(right, target).max() < 1e-6
    assert dice_loss(right, target).max() < 1e-6
    assert bce_loss(wrong, target).min() == pytest.approx(50)
    assert dice_loss(wrong, target).min() == pytest.approx(1 - 1 / 17)


def test_three_quarters_of_the_points_are_the_most_undecided_candidates():
    logits = torch.full((1, 1, 16, 16), 5.0)
    logits[..., :4] = 0.01  # undecided in the left quarter
    chosen = choose_points(logits, num_points=400, generators=[torch.Generator().manual_seed(0)])
    assert chosen.shape == (1, 400, 2)
    uncertain, random = chosen[0, :300, 0], chosen[0, 300:, 0]
    # The 300 most undecided of 1200 candidates lie where 300 candidates are expected.
    assert (uncertain < 0.27).float().mean() > 0.9
    assert (random < 0.25).float().mean() == pytest.approx(0.25, abs=0.12)


def test_points_equal_those_of_a_sorting_loop():
    logits = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    chosen = choose_points(logits, num_points=20, generators=[torch.Generator().manual_seed(5)])
    drawn = torch.rand(60 + 5, 2, generator=torch.Generator().manual_seed(5))
    candidates, random = drawn[:60], drawn[60:]
    sizes = [abs(_bilinear(logits[0, 0].numpy(), x, y)) for x, y in candidates.tolist()]
    wanted = {tuple(candidates[i].tolist()) for i in np.argsort(sizes)[:15]}
    assert {tuple(p) for p in chosen[0, :15].tolist()} == wanted
    assert torch.equal(chosen[0, 15:], random)


def test_points_of_a_mask_do_not_depend_on_its_neighbours():
    logits = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def sources(rows):
        return [torch.Generator().manual_seed(100 + i) for i in rows]

    whole = choose_points(logits, num_points=30, generators=sources(range(4)))
    part = choose_points(logits[2:], num_points=30, generators=sources((2, 3)))
    assert torch.equal(whole[2:], part)


def test_more_points_than_logits_are_fine_and_an_empty_batch_has_no_loss():
    logits = torch.randn(2, 1, 4, 4)
    points = choose_points(logits, num_points=500)
    assert mask_losses(logits, torch.ones(2, 1, 8, 8), points).total().shape == (2,)
    nothing = choose_points(logits[:0], num_points=5, generators=[])
    assert mask_losses(logits[:0], torch.ones(0, 1, 8, 8), nothing).total().shape == (0,)


def test_generators_for_another_number_of_masks_are_refused():
    with pytest.raises(ValueError, match="1 generators for 2 masks"):
        choose_points(torch.zeros(2, 1, 4, 4), generators=[torch.Generator()])
