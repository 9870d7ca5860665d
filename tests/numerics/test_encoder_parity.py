"""Our image encoder against `segment_anything`'s own."""

from functools import partial
from typing import get_args

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from unseg.models import SIZES
from unseg.models.attention import Backend
from unseg.models.encoder import ImageEncoder, resample_pos_embed

# Image sides whose grids do and do not fill whole windows, and one smaller than a window.
CASES = {
    "tiny": ("tiny", 128, None),
    "tiny, whole windows": ("tiny", 112, None),
    "tiny, less than a window": ("tiny", 24, None),
    "small": ("small", 192, 3),
    "vit_b": ("vit_b", 320, 3),
}


def _pair(size, image_size, depth):
    """segment_anything's encoder with nonzero tables everywhere, and ours with its weights."""
    spec = SIZES[size]
    depth = depth or spec.depth
    global_indexes = tuple(i for i in spec.global_attn_indexes if i < depth)
    shared = {
        "patch_size": spec.patch_size,
        "embed_dim": spec.embed_dim,
        "depth": depth,
        "num_heads": spec.num_heads,
        "window_size": spec.window_size,
        "global_attn_indexes": global_indexes,
    }
    torch.manual_seed(3)
    upstream = ImageEncoderViT(
        img_size=image_size,
        out_chans=spec.decoder_dim,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        **shared,
    )
    with torch.no_grad():
        for name, parameter in upstream.named_parameters():
            if "pos" in name or name.endswith("bias"):
                parameter.normal_(std=0.2)
    ours = ImageEncoder(image_size=image_size, out_dim=spec.decoder_dim, **shared)
    ours.load_state_dict(upstream.state_dict())
    return upstream, ours


def _assert_close(found, expected, tolerance=1e-5):
    difference = (found - expected).abs()
    assert difference.max() <= tolerance, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_embedding_and_early_tokens_equal_segment_anything_s_with_every_backend(case):
    upstream, ours = _pair(*case)
    early = []
    upstream.blocks[ours.first_global].register_forward_hook(
        lambda _module, _inputs, output: early.append(output)
    )
    image = torch.randn(2, 3, case[1], case[1])
    with torch.no_grad():
        expected = upstream(image)
        for backend in get_args(Backend):
            ours.attention_backend = backend
            found = ours(image)
            _assert_close(found.embedding, expected)
            _assert_close(found.early_tokens, early[0])


def test_gradients_of_every_parameter_and_of_the_image_equal_segment_anything_s():
    upstream, ours = _pair("tiny", 128, None)
    image = torch.randn(1, 3, 128, 128, requires_grad=True)
    weight = torch.randn(1, SIZES["tiny"].decoder_dim, 16, 16)
    leaves = [image, *upstream.parameters()]
    expected = torch.autograd.grad((upstream(image) * weight).sum(), leaves)
    leaves = [image, *ours.parameters()]
    found = torch.autograd.grad((ours(image).embedding * weight).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        _assert_close(one / other.abs().max(), other / other.abs().max())


@pytest.mark.parametrize("table_side", [5, 40])
def test_tables_of_another_grid_interpolate_as_in_segment_anything(table_side):
    upstream, ours = _pair("tiny", 128, None)
    for encoder in (upstream, ours):
        torch.manual_seed(5)
        for block in encoder.blocks:
            for name in ("rel_pos_h", "rel_pos_w"):
                table = torch.randn(2 * table_side - 1, 32) * 0.2
                setattr(block.attn, name, torch.nn.Parameter(table))
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        _assert_close(ours(image).embedding, upstream(image))


def _keys_cubic(distance, a=-0.75):
    """Keys' convolution kernel (1981) with the parameter that torch uses."""
    x = distance.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0))


def test_position_embedding_is_resampled_by_bicubic_convolution_and_kept_where_it_fits():
    pos_embed = torch.randn(1, 14, 14, 2)
    centre = (torch.arange(32.0) + 0.5) * 14 / 32 - 0.5
    matrix = torch.zeros(32, 14)
    for tap in range(-1, 3):
        source = centre.floor() + tap
        matrix[torch.arange(32), source.clamp(0, 13).long()] += _keys_cubic(centre - source)
    expected = torch.einsum("ih,jw,bhwc->bijc", matrix, matrix, pos_embed)
    _assert_close(resample_pos_embed(pos_embed, 32), expected)
    assert resample_pos_embed(pos_embed, 14) is pos_embed
