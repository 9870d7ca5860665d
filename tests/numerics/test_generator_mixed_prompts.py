"""A batch whose images carry different prompts equals its images run one at a time."""

import itertools

import pytest
import torch

from unseg.models import build_generator, build_surrogate
from unseg.types import Prompts

KINDS = [
    kinds
    for count in range(4)
    for kinds in itertools.combinations(("box", "points", "mask"), count)
]


def _single(kinds, index, side, mask_side):
    """Prompts of one image; images have different numbers of points, and labels of all kinds."""
    random = torch.Generator().manual_seed(index)
    given = {}
    if "box" in kinds:
        given["boxes"] = torch.rand(1, 4, generator=random) * side
    if "points" in kinds:
        num = 1 + index
        given["point_coords"] = torch.rand(1, num, 2, generator=random) * side
        given["point_labels"] = torch.randint(-1, 2, (1, num), generator=random)
    if "mask" in kinds:
        given["mask_inputs"] = (
            torch.rand(1, 1, mask_side, mask_side, generator=random).round() * 255
        )
    return Prompts(**given)


@pytest.fixture(scope="module", params=["generator", "surrogate"])
def player(request):
    torch.manual_seed(4)
    if request.param == "generator":
        return build_generator("tiny").eval()
    return build_surrogate("tiny").eval()


def _output_size(player):
    return 4 * player.grid


def _batch(player):
    singles = [
        _single(kinds, i, player.image_size, _output_size(player)) for i, kinds in enumerate(KINDS)
    ]
    images = torch.rand(len(KINDS), 3, player.image_size, player.image_size)
    return images, singles, Prompts.cat(singles, [1] * len(singles))


def _assert_close(found, expected, tolerance=1e-5):
    difference = (found - expected).abs()
    assert difference.max() <= tolerance, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    )


def test_a_batch_of_every_mixture_equals_its_images_one_at_a_time(player):
    images, singles, prompts = _batch(player)
    with torch.no_grad():
        together = player(images, prompts)
        alone = [player(images[i : i + 1], p) for i, p in enumerate(singles)]
    _assert_close(together, torch.cat(alone))
    # The prompts do matter: without them the images come out differently.
    with torch.no_grad():
        bare = player(images, Prompts())
    assert ((together - bare).abs().flatten(1).amax(1)[1:] > 1e-4).all()


def test_what_an_absent_slot_holds_changes_nothing(player):
    images, _, prompts = _batch(player)
    absent = (prompts.point_labels == -2)[..., None]
    with torch.no_grad():
        expected = player(images, prompts)
        for junk in (float("nan"), 1e9):
            coords = torch.where(absent, junk, prompts.point_coords)
            changed = Prompts(prompts.boxes, coords, prompts.point_labels, prompts.mask_inputs)
            assert torch.equal(player(images, changed), expected)


def test_gradients_of_a_mixed_batch_are_the_sums_of_its_images(player):
    images, singles, prompts = _batch(player)
    weight = torch.randn(len(images), 1, _output_size(player), _output_size(player))
    parameters = [p for n, p in player.named_parameters() if p.requires_grad and "noise" in n]
    parameters = parameters or list(player.mask_decoder.parameters())

    def gradients(loss):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [None if g is None else g / len(images) for g in found]

    found = gradients((player(images, prompts) * weight).sum())
    one_by_one = sum(
        (player(images[i : i + 1], p) * weight[i]).sum() for i, p in enumerate(singles)
    )
    expected = gradients(one_by_one)
    assert [g is None for g in found] == [g is None for g in expected]
    # One scale for all: some gradients (key biases) are zero but for rounding.
    scale = max(g.abs().max() for g in expected if g is not None)
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            _assert_close(one / scale, other / scale)


def test_whole_batch_absence_equals_not_giving_the_kind(player):
    side, out = player.image_size, _output_size(player)
    images = torch.rand(2, 3, side, side)
    nothing = Prompts(
        boxes=torch.full((2, 4), float("nan")),
        point_coords=torch.zeros(2, 3, 2),
        point_labels=torch.full((2, 3), -2),
        mask_inputs=torch.full((2, 1, out, out), float("nan")),
    )
    with torch.no_grad():
        _assert_close(player(images, nothing), player(images, Prompts()))


def test_autocast_does_not_move_the_prompts(player):
    encoder = player.prompt_encoder
    box = Prompts(boxes=torch.tensor([[3.0, 5.0, 40.0, 61.0]]))
    with torch.no_grad():
        expected, expected_pe = encoder(box, 1).sparse, encoder.get_dense_pe()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encoder(box, 1).sparse, expected)
            assert torch.equal(encoder.get_dense_pe(), expected_pe)
