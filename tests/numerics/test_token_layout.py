"""Tokens, their order and the read-out, against one-image passes of `segment_anything`'s parts."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from unseg.models import SIZES, build_generator, build_surrogate
from unseg.types import Prompts

SIZE = SIZES["tiny"]
SIDE = SIZE.image_size


def _upstream(player, num_mask_tokens):
    """segment_anything's own prompt encoder and mask decoder with our player's weights."""
    state = player.state_dict()
    side = player.image_size
    prompt_encoder = PromptEncoder(SIZE.decoder_dim, (player.grid,) * 2, (side, side), 16)
    transformer = TwoWayTransformer(2, SIZE.decoder_dim, SIZE.decoder_heads, SIZE.decoder_mlp_dim)
    decoder = MaskDecoder(
        transformer_dim=SIZE.decoder_dim,
        transformer=transformer,
        num_multimask_outputs=num_mask_tokens - 1,
        iou_head_hidden_dim=SIZE.decoder_dim,
    )
    for module, prefix in ((prompt_encoder, "prompt_encoder."), (decoder, "mask_decoder.")):
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        missing, unexpected = module.load_state_dict(own, strict=False)
        assert all(name.startswith(("iou_", "noise_")) for name in [*missing, *unexpected])
    return prompt_encoder, decoder


def _reference_tokens(player, upstream, embedding, prompts, tables):
    """Transformer outputs of one image: learned tokens in order, then the prompt's."""
    prompt_encoder, decoder = upstream
    points = None
    if prompts.point_coords is not None:
        points = (prompts.point_coords, prompts.point_labels)
    sparse, dense = prompt_encoder(points, prompts.boxes, prompts.mask_inputs)
    tokens = torch.cat([torch.cat(tables)[None], sparse], dim=1)
    outputs, image = decoder.transformer(embedding + dense, prompt_encoder.get_dense_pe(), tokens)
    image = image.transpose(1, 2).view(1, -1, player.grid, player.grid)
    return outputs, decoder.output_upscaling(image)


def _prompts(kinds, side, mask_side):
    random = torch.Generator().manual_seed(11)
    given = {}
    if "box" in kinds:
        given["boxes"] = torch.tensor([[0.1, 0.2, 0.7, 0.9]]) * side
    if "points" in kinds:
        given["point_coords"] = torch.rand(1, 4, 2, generator=random) * side
        given["point_labels"] = torch.tensor([[1, 0, -1, 1]])
    if "mask" in kinds:
        given["mask_inputs"] = (
            torch.rand(1, 1, mask_side, mask_side, generator=random).round() * 255
        )
    return Prompts(**given)


KINDS = ["", "box", "points", "mask", "box points", "points mask", "box mask", "box points mask"]


def _assert_close(found, expected, tolerance=1e-5):
    difference = (found - expected).abs()
    assert difference.max() <= tolerance, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    )


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize(("readout", "first"), [("noise_tokens", 5), ("official", 4)])
def test_noise_equals_a_plain_pass_over_iou_mask_noise_and_prompt_tokens(kinds, readout, first):
    torch.manual_seed(0)
    generator = build_generator("tiny", noise_readout=readout).eval()
    decoder = generator.mask_decoder
    image = torch.rand(1, 3, SIDE, SIDE)
    prompts = _prompts(kinds, SIDE, generator.noise_size)
    with torch.no_grad():
        embedding, early = generator.image_encoder(generator.normalise(image))
        tables = [t.weight for t in (decoder.iou_token, decoder.mask_tokens, decoder.noise_token)]
        outputs, upscaled = _reference_tokens(
            generator, _upstream(generator, 4), embedding, prompts, tables
        )
        features = (
            decoder.noise_embedding_maskfeature(upscaled)
            + decoder.noise_embedding_encoder(embedding)
            + decoder.noise_compress_vit_feat(early.permute(0, 3, 1, 2))
        )
        channels = [
            (mlp(outputs[0, first + i])[:, None, None] * features[0]).sum(0)
            for i, mlp in enumerate(decoder.noise_mlp)
        ]
        found = generator(image, prompts)
    _assert_close(found[0], torch.stack(channels).tanh())


@pytest.mark.parametrize("kinds", KINDS)
def test_logits_equal_the_first_mask_of_a_plain_pass_over_three_mask_tokens(kinds):
    torch.manual_seed(1)
    surrogate = build_surrogate("tiny").eval()
    decoder = surrogate.mask_decoder
    image = torch.rand(1, 3, SIDE // 2, SIDE // 2)
    prompts = _prompts(kinds, SIDE // 2, surrogate.logit_size)
    with torch.no_grad():
        embedding, _ = surrogate.image_encoder(surrogate.normalise(image))
        outputs, upscaled = _reference_tokens(
            surrogate, _upstream(surrogate, 3), embedding, prompts, [decoder.mask_tokens.weight]
        )
        vector = decoder.output_hypernetworks_mlps[0](outputs[0, 0])
        found = surrogate(image, prompts)
    _assert_close(found[0, 0], (vector[:, None, None] * upscaled[0]).sum(0))


def test_official_readout_equals_ours_after_a_permutation_of_token_rows():
    torch.manual_seed(2)
    ours = build_generator("tiny").eval()
    released = build_generator("tiny", noise_readout="official").eval()
    state = ours.state_dict()
    mask, noise = (
        state[f"mask_decoder.{n}.weight"].clone() for n in ("mask_tokens", "noise_token")
    )
    state["mask_decoder.mask_tokens.weight"] = torch.cat([mask[:3], noise[:1]])
    state["mask_decoder.noise_token.weight"] = torch.cat([noise[1:], mask[3:]])
    released.load_state_dict(state)
    image, prompts = torch.rand(1, 3, SIDE, SIDE), _prompts("box mask", SIDE, ours.noise_size)
    with torch.no_grad():
        _assert_close(released(image, prompts), ours(image, prompts))
        released.noise_readout = "noise_tokens"
        assert (released(image, prompts) - ours(image, prompts)).abs().max() > 1e-3
