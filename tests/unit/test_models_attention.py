"""The attention back-ends against the formula written out, forward and backward."""

import pytest
import torch
from segment_anything.modeling.image_encoder import get_rel_pos

from unseg.models import attention as module
from unseg.models.attention import attention, pick_backend, resample_rel_pos

# (images or windows, heads, head size, (height, width), offsets in the row and column tables)
SHAPES = {
    "square": (2, 3, 8, (6, 6), (11, 11)),
    "one token": (1, 1, 4, (1, 1), (1, 1)),
    "one row": (2, 2, 4, (1, 7), (1, 13)),
    "rectangle": (1, 2, 5, (3, 5), (5, 9)),
    "table of a larger grid": (1, 2, 8, (4, 4), (27, 27)),
    "table of a smaller grid": (1, 2, 8, (6, 6), (7, 7)),
}


def _inputs(shape, *, grad=False, scale=1.0):
    maps, heads, dim, grid, lengths = shape
    random = torch.Generator().manual_seed(7)
    tensors = [
        torch.randn(maps, heads, grid[0] * grid[1], dim, generator=random, dtype=torch.float64)
        for _ in range(3)
    ]
    tensors += [torch.randn(n, dim, generator=random, dtype=torch.float64) for n in lengths]
    return [(scale * t).requires_grad_(grad) for t in tensors], grid


def _written_out(q, k, v, rel_pos_h, rel_pos_w, grid):
    """The definition, one pair of tokens at a time, on segment_anything's own tables."""
    height, width = grid
    rel_h = get_rel_pos(height, height, rel_pos_h)
    rel_w = get_rel_pos(width, width, rel_pos_w)
    rows = []
    for i in range(height * width):
        scores = []
        for j in range(height * width):
            row, column = rel_h[i // width, j // width], rel_w[i % width, j % width]
            key = k[:, :, j] / q.shape[-1] ** 0.5 + row + column
            scores.append((q[:, :, i] * key).sum(-1))
        weights = torch.stack(scores, -1).softmax(-1)
        rows.append((weights[..., None] * v).sum(-2))
    return torch.stack(rows, 2)


def _assert_close(found, expected, tolerance=1e-12):
    difference = (found - expected).abs()
    assert difference.max() <= tolerance, (
        f"max {difference.max():.2e}, mean {difference.mean():.2e}"
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", ["plain", "chunked", "augmented"])
def test_each_backend_computes_the_formula(shape, backend):
    (q, k, v, rel_h, rel_w), grid = _inputs(shape)
    found = attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend=backend)
    _assert_close(found, _written_out(q, k, v, rel_h, rel_w, grid))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", ["plain", "chunked", "augmented"])
def test_gradients_of_each_backend_are_those_of_the_formula(shape, backend):
    inputs, grid = _inputs(shape, grad=True)
    q, k, v, rel_h, rel_w = inputs
    found = attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend=backend)
    expected = _written_out(q, k, v, rel_h, rel_w, grid)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).double()
    found_gradients = torch.autograd.grad((found * weight).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        _assert_close(one, other)


@pytest.mark.parametrize("limit", [1, 20, 36, 100, 36 * 36, 5 * 36 * 36])
def test_any_chunk_size_gives_the_same_attention(monkeypatch, limit):
    (q, k, v, rel_h, rel_w), grid = _inputs(SHAPES["square"])
    expected = _written_out(q, k, v, rel_h, rel_w, grid)
    monkeypatch.setattr(module, "CHUNK_SCORES", limit)
    found = attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend="chunked")
    _assert_close(found, expected)


@pytest.mark.parametrize("backend", ["plain", "chunked", "augmented"])
def test_huge_scores_stay_finite(backend):
    (q, k, v, rel_h, rel_w), grid = _inputs(SHAPES["square"], scale=1e3)
    inputs = [t.float() for t in (q, k, v)]
    tables = {"rel_pos_h": rel_h.float(), "rel_pos_w": rel_w.float()}
    assert attention(*inputs, **tables, grid=grid, backend=backend).isfinite().all()


def test_tables_that_fit_are_used_as_they_are():
    table = torch.randn(13, 4)
    assert resample_rel_pos(table, 7) is table


def test_the_device_decides_the_backend():
    assert pick_backend(torch.device("cpu")) == "chunked"
    assert pick_backend(torch.device("cuda")) == "augmented"


@pytest.mark.parametrize("limit", [1, 20, 36, 100, 36 * 36, 5 * 36 * 36])
def test_any_chunk_size_gives_the_same_gradients(monkeypatch, limit):
    inputs, grid = _inputs(SHAPES["square"], grad=True)
    q, k, v, rel_h, rel_w = inputs
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).double()

    def gradients(backend):
        out = attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend=backend)
        return out, torch.autograd.grad((out * weight).sum(), inputs)

    expected_out, expected = gradients("plain")
    monkeypatch.setattr(module, "CHUNK_SCORES_TRAINING", limit)
    out, found = gradients("chunked")
    _assert_close(out, expected_out)
    for one, other in zip(found, expected, strict=True):
        _assert_close(one, other)


def test_numerical_differences_confirm_the_chunked_gradients():
    inputs, grid = _inputs((2, 1, 3, (2, 3), (3, 5)), grad=True, scale=0.5)

    def chunked(q, k, v, rel_h, rel_w):
        return attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend="chunked")

    assert torch.autograd.gradcheck(chunked, inputs)


def test_chunked_attention_keeps_no_scores_for_the_backward_pass():
    inputs, grid = _inputs((1, 2, 4, (12, 12), (23, 23)), grad=True)
    q, k, v, rel_h, rel_w = inputs
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(q, k, v, rel_pos_h=rel_h, rel_pos_w=rel_w, grid=grid, backend="chunked")
    assert max(sizes) < 144 * 144, "as large as the scores of one head"
