"""Multi-head attention with decomposed relative positions: one entry point, exact back-ends.

Every back-end computes `softmax(scale * q k^T + rel_h + rel_w) v`, where `rel_h` and `rel_w` are
the products of the queries with the relative-position tables of the rows and the columns (ViTDet,
Li et al. 2022). They differ in speed and memory only, by rounding in the result:

- `plain`: all scores at once.
- `chunked`: about a million scores at a time, made in place on top of the relative positions, so
  they stay in the processor's cache. With gradients it keeps no scores either: the backward pass
  makes each chunk's again (one more matrix product in five, and no traffic of N^2 tensors). The
  fastest on a CPU, and it needs memory for one chunk instead of N^2.
- `augmented`: the relative positions become extra dimensions of the heads (q gets `rel_h` and
  `rel_w`, k the one-hot codes of its row and column), so a fused kernel runs forward and backward
  without any N^2 tensor. For CUDA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Backend = Literal["plain", "chunked", "augmented"]

CHUNK_SCORES = 2**20
"""Scores held at once by `chunked`: 256 rows at 4096 keys, 4 MB in float32."""

CHUNK_SCORES_TRAINING = 2**18
"""The same with gradients, where the backward pass holds several pictures of a chunk."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    grid: tuple[int, int],
    backend: Backend | None = None,
) -> Tensor:
    """Attention output of the tokens of one grid (an image's, or a window's).

    Args:
        q: (M, heads, h * w, d) queries, unscaled, tokens in raster order.
        k: keys, same shape.
        v: values, same shape.
        rel_pos_h: (L, d) table for row offsets; L other than 2h - 1 is resampled linearly.
        rel_pos_w: (L, d) table for column offsets.
        grid: (h, w).
        backend: None lets the device decide.

    Returns:
        (M, heads, h * w, d).

    Raises:
        ValueError: there is no such back-end.
    """
    height, width = grid
    rel_h = relative_table(rel_pos_h, height).to(q.dtype)
    rel_w = relative_table(rel_pos_w, width).to(q.dtype)
    backend = backend or pick_backend(q.device)
    if backend == "plain":
        return _plain(q, k, v, rel_h, rel_w)
    if backend == "augmented":
        return _augmented(q, k, v, rel_h, rel_w)
    if backend != "chunked":
        raise ValueError(f"attention back-end {backend!r}; choose from {get_args(Backend)}")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, rel_h, rel_w)):
        flat = [t.flatten(0, 1) for t in (q, k, v)]
        return _Recomputed.apply(*flat, *_relative_scores(flat[0], rel_h, rel_w)).view(q.shape)
    return _chunked(q, k, v, rel_h, rel_w)


def pick_backend(device: torch.device) -> Backend:
    """The fastest back-end for a device."""
    return "augmented" if device.type == "cuda" else "chunked"


def resample_rel_pos(rel_pos: Tensor, size: int) -> Tensor:
    """A relative-position table for an axis of another length, resampled linearly.

    Args:
        rel_pos: (L, d), one row for each offset.
        size: tokens along the axis.

    Returns:
        (2 * size - 1, d); the argument itself where it already fits.
    """
    length = 2 * size - 1
    if len(rel_pos) == length:
        return rel_pos
    return F.interpolate(rel_pos.T[None], length, mode="linear")[0].T


def relative_table(rel_pos: Tensor, size: int) -> Tensor:
    """Table row of each (query, key) pair along one axis: (size, size, d)."""
    # Query i sees key j at offset i - j: each query's row is a stretch of the reversed table, and
    # windows of it, unlike an index, have a backward pass that sums in a fixed order.
    reversed_table = resample_rel_pos(rel_pos, size).flip(0)
    return reversed_table.unfold(0, size, 1).flip(0).transpose(1, 2)


def _relative_scores(q: Tensor, rel_h: Tensor, rel_w: Tensor) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of key rows and of key columns.

    Args:
        q: (..., h * w, d).
        rel_h: (h, h, d).
        rel_w: (w, w, d).

    Returns:
        (..., h * w, h) and (..., h * w, w).
    """
    q_grid = q.unflatten(-2, (len(rel_h), len(rel_w)))
    by_row = torch.einsum("...hwc,hkc->...hwk", q_grid, rel_h)
    by_column = torch.einsum("...hwc,wkc->...hwk", q_grid, rel_w)
    return by_row.flatten(-3, -2), by_column.flatten(-3, -2)


def _plain(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    shape = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    by_row, by_column = _relative_scores(q, rel_h, rel_w)
    bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(-2)
    scores = torch.baddbmm(bias, q, k.transpose(-2, -1), alpha=shape[-1] ** -0.5)
    return (scores.softmax(-1).to(v.dtype) @ v).view(shape)


def _chunked(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    shape, num_keys = q.shape, k.shape[-2]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    out = torch.empty_like(q)
    for here, parts in _chunks(len(q), num_keys, CHUNK_SCORES):
        # bfloat16 products copy operands that are not contiguous: once here, not in each part.
        q_maps, v_maps = q[here], v[here].contiguous()
        k_maps = k[here].transpose(-2, -1).contiguous()
        by_row, by_column = _relative_scores(q_maps, rel_h, rel_w)
        for part in parts:
            scores = (by_row[:, part, :, None] + by_column[:, part, None, :]).flatten(-2)
            scores.baddbmm_(q_maps[:, part], k_maps, alpha=shape[-1] ** -0.5)
            out[here, part] = torch.bmm(scores.softmax(-1).to(v.dtype), v_maps)
    return out.view(shape)


def _chunks(num_maps: int, num_keys: int, limit: int) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of maps, each with slices of query rows with at most `limit` scores at once.

    One "map" is one head of one image or window; several small maps share a chunk.
    """
    rows = min(num_keys, max(1, limit // num_keys))
    maps = max(1, limit // num_keys**2)
    parts = [slice(row, row + rows) for row in range(0, num_keys, rows)]
    for start in range(0, num_maps, maps):
        yield slice(start, start + maps), parts


class _Recomputed(torch.autograd.Function):
    """Attention of maps (M, N, d) in chunks, whose backward pass makes the weights again.

    With weights P = softmax(S) and output O = P v, the gradient of the scores is
    dS = P * (dO v^T - sum(dO * O)), summed over channels (FlashAttention, Dao et al. 2022).
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor
    ) -> Tensor:
        out = q.new_empty(q.shape)
        for here, parts in _chunks(len(q), q.shape[1], CHUNK_SCORES_TRAINING):
            for part in parts:
                weights = _weights(
                    q[here, part], k[here], by_row[here, part], by_column[here, part]
                )
                out[here, part] = torch.bmm(weights.to(v.dtype), v[here])
        ctx.save_for_backward(q, k, v, by_row, by_column, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, by_row, by_column, out = ctx.saved_tensors
        exact = torch.promote_types(q.dtype, torch.float32)
        scale = q.shape[-1] ** -0.5
        grid = (by_row.shape[-1], by_column.shape[-1])
        mean = (grad * out).sum(-1, keepdim=True, dtype=exact)
        grad_q, grad_row, grad_column = (t.new_empty(t.shape) for t in (q, by_row, by_column))
        grad_k, grad_v = (torch.zeros(t.shape, dtype=exact, device=t.device) for t in (k, v))
        for here, parts in _chunks(len(q), q.shape[1], CHUNK_SCORES_TRAINING):
            k_maps, v_maps = k[here], v[here].transpose(-2, -1)
            for part in parts:
                q_part, grad_part = q[here, part], grad[here, part]
                weights = _weights(q_part, k_maps, by_row[here, part], by_column[here, part])
                grad_v[here] += torch.bmm(weights.to(v.dtype).transpose(-2, -1), grad_part)
                scores = torch.bmm(grad_part, v_maps).to(exact)
                scores.sub_(mean[here, part]).mul_(weights)
                on_grid = scores.unflatten(-1, grid)
                grad_row[here, part] = on_grid.sum(-1)
                grad_column[here, part] = on_grid.sum(-2)
                scores = scores.to(q.dtype)
                grad_q[here, part] = torch.bmm(scores, k_maps).mul_(scale)
                grad_k[here] += torch.bmm(scores.transpose(-2, -1), q_part).mul_(scale)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_row, grad_column


def _weights(q: Tensor, k: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Softmax of the scores of some queries: (M, rows, N), float32 at least."""
    scores = (by_row[..., :, None] + by_column[..., None, :]).flatten(-2)
    scores.baddbmm_(q, k.transpose(-2, -1), alpha=q.shape[-1] ** -0.5)
    return scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32))


def _augmented(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    maps, heads, num_keys, dim = q.shape
    height, width = len(rel_h), len(rel_w)
    by_row, by_column = _relative_scores(q, rel_h, rel_w)
    token = torch.arange(num_keys, device=q.device)
    codes = torch.cat(
        [
            F.one_hot(token // width, height).to(k.dtype),
            F.one_hot(token % width, width).to(k.dtype),
        ],
        dim=-1,
    )
    # Fused kernels want equal head sizes, in multiples of eight; zeros change no product.
    total = dim + height + width
    padded = 8 * math.ceil(total / 8)
    q_long = F.pad(torch.cat([q * dim**-0.5, by_row, by_column], dim=-1), (0, padded - total))
    k_long = torch.cat([k, codes.expand(maps, heads, -1, -1)], dim=-1)
    k_long = F.pad(k_long, (0, padded - total))
    v_long = F.pad(v, (0, padded - dim))
    return F.scaled_dot_product_attention(q_long, k_long, v_long, scale=1.0)[..., :dim]
