"""Building the players: sizes, refusals, initialisation, what trains and what does not."""

import pytest
import torch

from unseg.models import SIZES, build_generator, build_surrogate
from unseg.noise import without_means
from unseg.types import Prompts
from unseg.utils.errors import UserError


class PlayerContract:
    """What every size must satisfy; a new size needs one more name in `sizes`."""

    def build(self, size, **arguments):
        raise NotImplementedError

    def output(self, player, grid):
        raise NotImplementedError

    @pytest.mark.parametrize("size", SIZES)
    def test_default_size_and_arguments_rebuild_the_same_state(self, size):
        with torch.device("meta"):
            player = self.build(size)
            again = self.build(**player.build_arguments)
        shapes = {name: value.shape for name, value in player.state_dict().items()}
        assert {name: value.shape for name, value in again.state_dict().items()} == shapes
        assert player.image_size % player.patch_size == 0
        assert player.grid == player.image_size // player.patch_size
        assert again.build_arguments == player.build_arguments

    @pytest.mark.parametrize("image_size", [8, 24, 56, 72])
    def test_any_multiple_of_the_patch_runs(self, image_size):
        player = self.build("tiny", image_size=image_size).eval()
        mask_side = 4 * image_size // 8
        prompts = Prompts(
            boxes=torch.tensor([[1.0, 1, 5, 6]]).expand(2, -1),
            mask_inputs=torch.zeros(2, 1, mask_side, mask_side),
        )
        with torch.no_grad():
            found = player(torch.rand(2, 3, image_size, image_size), prompts)
        assert found.shape == (2, self.output(player, mask_side), mask_side, mask_side)
        assert found.isfinite().all()

    @pytest.mark.parametrize(
        ("image_size", "use"), [(100, 104), (1, 8), (0, 8), (-8, 8), (130, 128)]
    )
    def test_a_size_that_is_no_multiple_is_refused_with_the_one_to_use(self, image_size, use):
        with pytest.raises(UserError, match=rf"image_size={image_size}: .* use {use}$"):
            self.build("tiny", image_size=image_size)

    def test_an_unknown_size_is_refused_with_the_known_ones(self):
        with pytest.raises(UserError, match="'huge': choose from tiny, small, vit_b"):
            self.build("huge")

    def test_an_image_of_another_size_is_refused_with_what_to_do(self):
        player = self.build("tiny", image_size=16)
        with pytest.raises(ValueError, match=r"takes \(B, 3, 16, 16\): pad it to a square"):
            player(torch.rand(1, 3, 16, 24), Prompts())

    def test_prompts_of_another_batch_or_mask_size_are_refused(self):
        player = self.build("tiny", image_size=16)
        with pytest.raises(ValueError, match="prompts are for 2 images, not for 1"):
            player(torch.rand(1, 3, 16, 16), Prompts(boxes=torch.zeros(2, 4)))
        with pytest.raises(ValueError, match=r"this model takes \(B, 1, 8, 8\)"):
            player(torch.rand(1, 3, 16, 16), Prompts(mask_inputs=torch.zeros(1, 1, 16, 16)))

    def test_the_seed_decides_every_weight_and_positions_start_nonzero(self):
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(self.build("tiny").state_dict())
        assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
        assert not torch.equal(
            states[0]["image_encoder.pos_embed"], states[2]["image_encoder.pos_embed"]
        )
        assert 0.01 < states[0]["image_encoder.pos_embed"].std() < 0.03
        assert all(value.isfinite().all() for value in states[0].values())


class TestGenerator(PlayerContract):
    def build(self, *arguments, **keywords):
        return build_generator(*arguments, **keywords)

    def output(self, _player, _grid):
        return 3


class TestSurrogate(PlayerContract):
    def build(self, *arguments, **keywords):
        return build_surrogate(*arguments, **keywords)

    def output(self, _player, _grid):
        return 1


def test_tiny_generator_has_about_a_million_parameters():
    assert 0.7e6 < sum(p.numel() for p in build_generator("tiny").parameters()) < 1.3e6


def test_tiny_pads_its_windows_and_attends_globally_after_a_windowed_block():
    spec = SIZES["tiny"]
    assert spec.image_size // spec.patch_size % spec.window_size
    assert min(spec.global_attn_indexes) > 0


@pytest.mark.parametrize("train_encoder", [False, True])
def test_only_the_noise_branches_get_gradients_unless_the_encoder_trains(train_encoder):
    generator = build_generator("tiny", train_encoder=train_encoder)
    generator.train()
    assert generator.image_encoder.training == train_encoder
    assert not generator.prompt_encoder.training
    noise = generator(torch.rand(1, 3, 128, 128), Prompts(boxes=torch.tensor([[9.0, 9, 60, 70]])))
    noise.square().sum().backward()
    with_gradient = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert with_gradient == set(generator.trainable_parameters())
    prefixes = {name.split(".")[0] for name in with_gradient}
    assert prefixes == ({"mask_decoder", "image_encoder"} if train_encoder else {"mask_decoder"})


def test_gradients_reach_the_image_through_a_frozen_surrogate():
    surrogate = build_surrogate("tiny").requires_grad_(False)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    surrogate(image, Prompts(boxes=torch.tensor([[1.0, 1, 30, 40]]))).sum().backward()
    assert (image.grad.abs().amax(1) > 0).float().mean() > 0.99
    assert all(p.grad is None for p in surrogate.parameters())


def test_noise_branches_start_xavier_uniform():
    torch.manual_seed(0)
    decoder = build_generator("tiny").mask_decoder
    for tensor in (
        decoder.noise_token.weight,
        decoder.noise_compress_vit_feat[0].weight,
        decoder.noise_embedding_encoder[3].weight,
        decoder.noise_embedding_maskfeature[3].weight,
    ):
        receptive = tensor[0, 0].numel()
        bound = (6 / ((tensor.shape[0] + tensor.shape[1]) * receptive)) ** 0.5
        assert 0.9 * bound < tensor.abs().max() <= bound


def test_luma_noise_is_the_tanh_of_the_mean_before_it_in_all_colours():
    torch.manual_seed(0)
    rgb, luma = build_generator("tiny"), build_generator("tiny", noise_carrier="luma")
    luma.load_state_dict(rgb.state_dict())
    image, prompts = torch.rand(2, 3, 128, 128), Prompts()
    with torch.no_grad():
        colours, grey = rgb(image, prompts), luma(image, prompts)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    expected = colours.double().atanh().mean(1).tanh()
    assert (grey[:, 0] - expected).abs().max() < 1e-5


def test_yellow_blue_noise_is_one_for_red_and_green_and_another_for_blue():
    torch.manual_seed(0)
    rgb, shared = build_generator("tiny"), build_generator("tiny", noise_carrier="yellow_blue")
    shared.load_state_dict(rgb.state_dict())
    image, prompts = torch.rand(2, 3, 128, 128), Prompts()
    with torch.no_grad():
        colours, found = rgb(image, prompts), shared(image, prompts)
    yellow = colours[:, :2].double().atanh().mean(1).tanh()
    assert torch.equal(found[:, 0], found[:, 1])
    assert (found[:, 0] - yellow).abs().max() < 1e-5
    assert torch.equal(found[:, 2], colours[:, 2])


@pytest.mark.parametrize("side", [2, 4])
def test_centred_noise_has_no_mean_in_any_square_and_stays_within_bounds(side):
    torch.manual_seed(0)
    plain, centred = build_generator("tiny"), build_generator("tiny", noise_centred=side)
    centred.load_state_dict(plain.state_dict())
    image, prompts = torch.rand(2, 3, 128, 128), Prompts()
    with torch.no_grad():
        raw, found = plain(image, prompts), centred(image, prompts)
    assert found.abs().max() <= 1
    for y in range(0, 64, side):
        for x in range(0, 64, side):
            square = raw[..., y : y + side, x : x + side]
            mean = square.mean((2, 3), keepdim=True)
            expected = (square - mean) / (1 + mean.abs())
            assert torch.allclose(found[..., y : y + side, x : x + side], expected, atol=1e-6)
    assert found.unfold(2, side, side).unfold(3, side, side).mean((-2, -1)).abs().max() < 1e-6


def test_centring_lets_balanced_noise_reach_the_bounds_and_erases_a_tint():
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(1, 3, 4, 4)
    assert torch.equal(without_means(checks, 4), checks)
    assert not without_means(torch.full((1, 3, 8, 8), 0.5), 4).any()
    lone = torch.full((1, 1, 4, 4), 1.0)
    lone[..., 0, 0] = -1
    assert without_means(lone, 4).abs().max() == 1


@pytest.mark.parametrize(
    "option",
    [
        {"noise_readout": "mask_tokens"},
        {"noise_carrier": "grey"},
        {"noise_centred": 3},
        {"image_size": 128.0},
    ],
)
def test_an_unknown_option_is_refused_by_name(option):
    (name,) = option
    with pytest.raises(UserError, match=name):
        build_generator("tiny", **option)


def test_padding_is_black_before_normalisation():
    generator = build_generator("tiny")
    black = generator.normalise(torch.zeros(1, 3, 2, 2))[0, :, 0, 0]
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert torch.allclose(black, expected)


@pytest.mark.parametrize(
    ("size", "side"),
    [("resnet50", 80), *(("efficientnet_lite0", side) for side in (64, 80, 128, 256))],
)
def test_a_convolutional_surrogate_has_the_vit_s_interface_and_trains(size, side):
    surrogate = build_surrogate(size, image_size=side)
    image = torch.rand(2, 3, side, side)
    prompts = Prompts(boxes=torch.tensor([[1.0, 1, 30, 40], [5, 5, 60, 63]]))
    logits = surrogate(image, prompts)
    assert surrogate.logit_size == side // 4
    assert logits.shape == (2, 1, side // 4, side // 4)
    logits.square().mean().backward()
    gradients = [p.grad for p in surrogate.image_encoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert surrogate.build_arguments == {"size": size, "image_size": side}
