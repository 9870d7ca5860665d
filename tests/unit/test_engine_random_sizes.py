"""Sizes vary between the players: pictures, masks and prompts move together."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from engine_cases import batch, players

from unseg.config.load import load_config, to_dict
from unseg.config.method import method_differences
from unseg.config.train import TrainConfig
from unseg.data.prompts import PROMPT_ABOVE, boxes_from_masks
from unseg.engine.bilevel import Game, generator_step, surrogate_logits, surrogate_step
from unseg.engine.random_sizes import Placement, RandomSizes
from unseg.engine.run import build_game
from unseg.losses import choose_points, mask_losses
from unseg.types import ABSENT_LABEL, Prompts
from unseg.utils.errors import UserError
from unseg.utils.seed import torch_generator

SIDE = 32
PLACES = (
    (32, 0, 0),
    (16, -16, 0),
    (19, -3, -13),
    (45, 0, 13),
    (64, 31, 2),
    (1, -31, -7),
    (33, 1, 0),
)
"""(size, left, top) of scaled pictures."""


def placement(places=PLACES) -> Placement:
    table = torch.tensor(places)
    return Placement(SIDE, table[:, 0], table[:, 1:])


def slow_move(image: torch.Tensor, places=PLACES) -> torch.Tensor:
    """One image after the other: resized by torch, then cut out of a much larger black canvas."""
    moved = []
    for one, (size, left, top) in zip(image, places, strict=True):
        scaled = F.interpolate(one[None], (size, size), mode="bilinear", align_corners=False)
        canvas = F.pad(scaled, (SIDE,) * 4)
        rows, columns = (slice(SIDE + first, 2 * SIDE + first) for first in (top, left))
        moved.append(canvas[..., rows, columns])
    return torch.cat(moved)


def rectangles(count: int, *, smallest: int = 4) -> torch.Tensor:
    """(count, 1, SIDE, SIDE) masks of one random rectangle each."""
    source = torch.Generator().manual_seed(5)
    masks = torch.zeros(count, 1, SIDE, SIDE)
    for mask in masks:
        height, width = torch.randint(smallest, SIDE // 2, (2,), generator=source).tolist()
        top, left = (
            int(torch.randint(SIDE - n + 1, (1,), generator=source)) for n in (height, width)
        )
        mask[:, top : top + height, left : left + width] = 1
    return masks


def drawn(mask: torch.Tensor, prompts: Prompts, low=0.5, high=2.0) -> Placement:
    sources = [torch_generator(9, i) for i in range(len(mask))]
    return RandomSizes(low, high)(mask, prompts, sources)


def test_pictures_move_as_torch_resizes_and_slices_them():
    image = torch.rand(len(PLACES), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    # torch keeps its weights in float32, whatever the picture is in.
    torch.testing.assert_close(placement().move(image), slow_move(image), atol=3e-6, rtol=0)
    assert torch.equal(placement().move(image)[0], image[0])


def test_moving_is_linear_and_passes_exact_gradients():
    image = torch.rand(len(PLACES), 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    weight = torch.rand_like(image)
    (found,) = torch.autograd.grad((placement().move(image) * weight).sum(), image)
    (wanted,) = torch.autograd.grad((slow_move(image) * weight).sum(), image)
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=0)


def test_the_box_of_the_moved_mask_is_the_moved_box_clipped_to_the_frame():
    mask = rectangles(300)
    boxes = boxes_from_masks(mask)
    place = drawn(mask, Prompts(boxes=boxes))
    found = place.move_prompts(Prompts(boxes=boxes), place.move(mask)).boxes
    scale = (place.sizes / SIDE)[:, None]
    corner = place.corners.repeat(1, 2)
    # Indices are inclusive: the box ends at the far edge of its last pixel.
    edges = (boxes + torch.tensor([0, 0, 1, 1])) * scale - corner - torch.tensor([0, 0, 1, 1])
    assert (found - edges.clamp(0, SIDE - 1)).abs().max() <= 1
    assert place.is_moved.float().mean() > 0.9
    assert torch.equal(found[~place.is_moved], boxes[~place.is_moved])


def test_points_stay_on_what_they_pointed_at_or_become_absent():
    mask = rectangles(200)
    points = torch.stack(
        [m[0].nonzero().flip(1)[torch.randperm(int(m.sum()))[:10]] for m in mask]
    ).float()
    prompts = Prompts(point_coords=points)
    place = drawn(mask, prompts)
    moved = place.move_prompts(prompts, place.move(mask))
    # Each pixel of these pictures tells its own coordinates.
    line = torch.arange(SIDE).float()
    ramps = torch.stack((line.expand(SIDE, SIDE), line[:, None].expand(SIDE, SIDE)))
    pictures = place.move(ramps.expand(len(mask), -1, -1, -1))
    exists = moved.point_labels != ABSENT_LABEL
    assert exists.any(1).all()
    assert 0.5 < exists.float().mean() < 1
    # Bilinear reading is exact on a ramp, away from the borders of picture and frame.
    grid = ((moved.point_coords + 0.5) * 2 / SIDE - 1)[:, None]
    read = F.grid_sample(pictures, grid, align_corners=False)[:, :, 0].mT
    inner = (points > 2) & (points < SIDE - 3)
    inner &= (moved.point_coords > 1) & (moved.point_coords < SIDE - 2)
    inner = inner.all(2) & exists
    assert inner.sum() > 500
    torch.testing.assert_close(read[inner], points[inner], atol=1e-3, rtol=0)
    outside = (moved.point_coords < -0.5) | (moved.point_coords >= SIDE - 0.5)
    assert torch.equal(outside.any(2), ~exists)


def test_mask_prompts_move_by_the_nearest_pixel_and_absent_ones_stay_absent():
    side = 16
    source = torch.Generator().manual_seed(1)
    masks = 255.0 * torch.randint(0, 2, (len(PLACES), 1, side, side), generator=source)
    masks[4] = float("nan")
    place, image = placement(), torch.ones(len(PLACES), 1, SIDE, SIDE)
    moved = place.move_prompts(Prompts(mask_inputs=masks), image).mask_inputs
    for row, (size, left, top) in enumerate(PLACES):
        if row == 4:
            assert moved[row].isnan().all()
            continue
        for y in range(side):
            for x in range(side):
                # Centre of the prompt's pixel, in pixels of the frame, then of the prompt before.
                u, v = ((n + 0.5) * SIDE / side + c for n, c in ((x, left), (y, top)))
                is_picture = 0 <= u < size and 0 <= v < size
                i, j = (int(n / size * side) for n in (u, v))
                wanted = masks[row, 0, j, i].item() if is_picture else 0
                assert moved[row, 0, y, x] == wanted, (row, x, y)


def test_kinds_that_an_image_has_not_stay_absent():
    mask = rectangles(3)
    boxes = boxes_from_masks(mask)
    boxes[1] = float("nan")
    prompts = Prompts(
        boxes=boxes,
        point_coords=torch.zeros(3, 2, 2),
        point_labels=torch.full((3, 2), ABSENT_LABEL),
    )
    place = drawn(mask, prompts)
    moved = place.move_prompts(prompts, place.move(mask))
    assert moved.boxes.isnan().all(1).tolist() == [False, True, False]
    assert (moved.point_labels == ABSENT_LABEL).all()
    assert moved.mask_inputs is None
    assert place.move_prompts(Prompts(), mask).kinds == ()


def test_no_target_is_empty_however_small_the_object():
    mask = torch.zeros(400, 1, SIDE, SIDE)
    source = torch.Generator().manual_seed(2)
    for one in mask:
        y, x = torch.randint(SIDE, (2,), generator=source).tolist()
        one[0, y : y + 2, x : x + 1] = 1
    place = drawn(mask, Prompts(), low=0.2, high=5.0)
    moved = place.move(mask)
    assert (moved.amax((1, 2, 3)) > PROMPT_ABOVE).all()
    kept = ~place.is_moved
    assert 0.1 < kept.float().mean() < 0.9, "reductions lose the object, enlargements must not"
    assert torch.equal(moved[kept], mask[kept])
    assert (place.sizes[place.is_moved] > SIDE).any()


def test_points_of_any_frame_keep_one_of_them_inside():
    side = 48  # factors of this frame are no short binary fractions
    mask = torch.ones(500, 1, side, side)
    points = torch.randint(side, (500, 1, 2), generator=torch.Generator().manual_seed(3)).float()
    prompts = Prompts(point_coords=points)
    place = drawn(mask, prompts, low=1.0, high=8.0)
    assert (place.move_prompts(prompts, mask).point_labels == 1).all()


def test_a_rank_without_a_sample_moves_nothing():
    mask = torch.zeros(0, 1, SIDE, SIDE)
    place = drawn(mask, Prompts())
    assert place.move(mask).shape == mask.shape
    assert place.move_prompts(Prompts(), mask).kinds == ()


def test_an_empty_mask_leaves_the_picture_as_it_is():
    place = drawn(torch.zeros(8, 1, SIDE, SIDE), Prompts())
    assert not place.is_moved.any()
    assert not place.corners.any()


def test_factors_are_log_uniform_and_places_use_all_the_room():
    mask = torch.ones(2000, 1, SIDE, SIDE)
    place = drawn(mask, Prompts())
    octaves = torch.log2(place.sizes / SIDE)
    assert octaves.min() == -1
    assert octaves.max() == 1
    assert octaves.mean().abs() < 0.05
    assert octaves.std().item() == pytest.approx(2 / 12**0.5, abs=0.03)
    room = (place.sizes - SIDE)[:, None]
    assert ((place.corners >= room.clamp(max=0)) & (place.corners <= room.clamp(min=0))).all()
    share = place.corners[place.is_moved] / room[place.is_moved]
    assert ((share.mean(0) - 0.5).abs() < 0.05).all()
    assert (share.std(0) > 0.25).all()


def test_what_happens_to_an_image_does_not_depend_on_its_neighbours():
    mask = rectangles(6)
    sizes = RandomSizes(0.5, 2)
    whole = sizes(mask, Prompts(), [torch_generator(7, i) for i in range(6)])
    part = sizes(mask[4:], Prompts(), [torch_generator(7, i) for i in (4, 5)])
    assert torch.equal(whole.sizes[4:], part.sizes)
    assert torch.equal(whole.corners[4:], part.corners)


@pytest.mark.parametrize("step", [generator_step, surrogate_step])
def test_the_surrogate_sees_the_moved_picture_and_the_target_is_ones_or_the_moved_mask(step):
    generator, surrogate = players()
    data, seen = batch(3), []
    surrogate.register_forward_pre_hook(lambda m, args: seen.append(args))
    game = Game(epsilon=8, epsilon_bg=2, num_points=50)
    moving = dataclasses.replace(game, sizes=RandomSizes(0.5, 2))
    losses = step(generator, surrogate, data, game=moving, epoch=1)
    with torch.no_grad():
        noise = generator(data.image, data.generator_prompts)
        logits, mask = surrogate_logits(surrogate, data, noise, game=moving, epoch=1)
        _, still = surrogate_logits(surrogate, data, noise, game=game, epoch=1)
    place = moving.sizes(
        still, data.surrogate_prompts, [torch_generator(42, 1, i, "sizes") for i in range(3)]
    )
    assert place.is_moved.all()
    (image, prompts), _, (still_image, still_prompts) = seen
    assert torch.equal(mask, place.move(still))
    torch.testing.assert_close(image.detach(), place.move(still_image), atol=1e-6, rtol=0)
    wanted = place.move_prompts(still_prompts, mask)
    assert prompts.kinds == wanted.kinds == ("box", "points", "mask")
    torch.testing.assert_close(prompts.boxes, wanted.boxes, equal_nan=True)
    torch.testing.assert_close(prompts.mask_inputs, wanted.mask_inputs, equal_nan=True)
    sources = [torch_generator(42, 1, i, "points") for i in range(3)]
    points = choose_points(logits, num_points=50, generators=sources)
    target = torch.ones_like(mask) if step is generator_step else mask
    torch.testing.assert_close(losses.bce, mask_losses(logits, target, points).bce)
    losses.total().sum().backward()
    learner = generator if step is generator_step else surrogate
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)


def test_sizes_are_off_by_default_and_a_wrong_range_is_refused():
    given = ["name=test", "data.source=synthetic", "schedule.steps=2"]
    assert build_game(load_config(TrainConfig, None, given)).sizes is None
    game = build_game(load_config(TrainConfig, None, [*given, "robust.sizes=[0.5,2]"]))
    assert game.sizes == RandomSizes(0.5, 2)
    assert game.degrade is None
    with pytest.raises(UserError, match=r"robust\.sizes.*smallest, largest"):
        load_config(TrainConfig, None, [*given, "robust.sizes=[2,0.5]"])


def test_a_checkpoint_from_before_sizes_existed_continues_where_they_are_off():
    given = ["name=test", "data.source=synthetic", "schedule.steps=2"]
    stored, still, moving = (
        to_dict(load_config(TrainConfig, None, [*given, f"robust.sizes={sizes}"]))
        for sizes in ("[1,1]", "[1,1]", "[0.5,2]")
    )
    del stored["robust"]["sizes"]
    assert method_differences(stored, still) == []
    assert len(method_differences(stored, moving)) == 1
