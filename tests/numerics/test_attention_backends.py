"""Every attention back-end inside an encoder block, against segment_anything's own block."""

import copy
from functools import partial

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn

from unseg.models.attention import attention
from unseg.models.encoder import block_attention

# name: (tokens per side (h, w), window)
GRIDS = {
    "global": ((6, 6), 0),
    "windows that fit": ((6, 6), 3),
    "windows with padding": ((7, 7), 3),
    "a rectangle with padding": ((5, 8), 3),
    "windows of one token": ((3, 4), 1),
    "a window larger than the grid": ((2, 3), 5),
    "one token in a padded window": ((1, 1), 2),
}
BACKENDS = ("plain", "chunked", "augmented")
FLOAT32 = 1e-5
"""Relative to the largest value."""
BFLOAT16 = {"plain": 2e-2, "chunked": 2e-2, "augmented": 2e-2}
"""Eight bits: each rounding moves a value by up to 2^-9 of itself."""


def _block(grid, window):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        block = Block(
            dim=24,
            num_heads=3,
            use_rel_pos=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            window_size=window,
            input_size=grid,
        )
        for name, parameter in block.named_parameters():
            if "rel_pos" in name or "bias" in name:
                nn.init.normal_(parameter, std=0.5)
    return block


def _ours(block, tokens, backend):
    tokens = tokens + block_attention(block, tokens, backend=backend)
    return tokens + block.mlp(block.norm2(tokens))


def _assert_close(found, expected, tolerance):
    scale = expected.abs().max().clamp(min=1e-12)
    difference = (found - expected).abs() / scale
    assert difference.max() <= tolerance, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e} of the largest value"
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("grid", "window"), GRIDS.values(), ids=GRIDS)
def test_a_block_equals_segment_anythings_in_float32(grid, window, backend):
    block = _block(grid, window)
    tokens = torch.randn(2, *grid, 24, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        _assert_close(_ours(block, tokens, backend), block(tokens), FLOAT32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("grid", "window"), GRIDS.values(), ids=GRIDS)
def test_gradients_of_a_block_equal_segment_anythings_in_float32(grid, window, backend):
    theirs = _block(grid, window)
    ours = copy.deepcopy(theirs)
    random = torch.Generator().manual_seed(6)
    tokens = torch.randn(2, *grid, 24, generator=random)
    weight = torch.randn(2, *grid, 24, generator=random)
    inputs = [tokens.clone().requires_grad_() for _ in range(2)]
    (theirs(inputs[0]) * weight).sum().backward()
    (_ours(ours, inputs[1], backend) * weight).sum().backward()
    _assert_close(inputs[1].grad, inputs[0].grad, FLOAT32)
    # One scale for all weights: where a gradient vanishes (keys of a single token), rounding of the
    # others' size is all that is left of it.
    expected = torch.cat([p.grad.flatten() for p in theirs.parameters()])
    found = torch.cat([p.grad.flatten() for p in ours.parameters()])
    _assert_close(found, expected, FLOAT32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grid", [(6, 6), (1, 1), (2, 7)], ids=str)
def test_attention_in_bfloat16_stays_near_float32(grid, backend):
    random = torch.Generator().manual_seed(8)
    count = grid[0] * grid[1]
    q, k, v = (torch.randn(2, 3, count, 8, generator=random) for _ in range(3))
    tables = {
        f"rel_pos_{axis}": 0.1 * torch.randn(2 * side - 1, 8, generator=random)
        for axis, side in zip("hw", grid, strict=True)
    }
    rough = [t.bfloat16() for t in (q, k, v)]
    exact = [t.float() for t in rough]
    expected = attention(*exact, **tables, grid=grid, backend="plain")
    found = attention(*rough, **tables, grid=grid, backend=backend)
    assert found.dtype == torch.bfloat16
    _assert_close(found.float(), expected, BFLOAT16[backend])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_bfloat16_stay_near_float32(backend):
    random = torch.Generator().manual_seed(9)
    rough = [
        torch.randn(2, 3, 36, 8, generator=random).bfloat16().requires_grad_() for _ in range(3)
    ]
    exact = [t.detach().float().requires_grad_() for t in rough]
    tables = {f"rel_pos_{axis}": 0.1 * torch.randn(11, 8, generator=random) for axis in "hw"}
    weight = torch.randn(2, 3, 36, 8, generator=random)
    expected = attention(*exact, **tables, grid=(6, 6), backend="plain")
    found = attention(*rough, **tables, grid=(6, 6), backend=backend)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), exact)
    found_gradients = torch.autograd.grad((found.float() * weight).sum(), rough)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        _assert_close(one.float(), other, 2 * BFLOAT16[backend])
