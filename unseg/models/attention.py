"""Multi-head attention with decomposed relative positions: one entry point, exact back-ends.

Every back-end computes `softmax(scale * q k^T + rel_h + rel_w) v`, where `rel_h` and `rel_w` are
the products of the queries with the relative-position tables of the rows and the columns (ViTDet,
Li et al. 2022). They differ in speed and memory only, by rounding in the result:

- `plain`: all scores at once, with gradients.
- `chunked`: about a million scores at a time, made in place on top of the relative positions, so
  they stay in the processor's cache. No gradients. The fastest on a CPU, and it needs memory for
  one chunk instead of N^2.
- `augmented`: the relative positions become extra dimensions of the heads (q gets `rel_h` and
  `rel_w`, k the one-hot codes of its row and column), so a fused kernel runs forward and backward
  without any N^2 tensor. For CUDA.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["plain", "chunked", "augmented"]

CHUNK_SCORES = 2**20
"""Scores held at once by `chunked`: 256 rows at 4096 keys, 4 MB in float32."""


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
        backend: None lets the device and the need for gradients decide.

    Returns:
        (M, heads, h * w, d).

    Raises:
        ValueError: there is no such back-end, or `chunked` was asked for gradients.
    """
    height, width = grid
    rel_h = relative_table(rel_pos_h, height).to(q.dtype)
    rel_w = relative_table(rel_pos_w, width).to(q.dtype)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, rel_h, rel_w))
    if backend is None:
        backend = pick_backend(q.device, needs_grad=needs_grad)
    if backend == "plain":
        return _plain(q, k, v, rel_h, rel_w)
    if backend == "augmented":
        return _augmented(q, k, v, rel_h, rel_w)
    if backend != "chunked":
        raise ValueError(f"attention back-end {backend!r}; choose from {get_args(Backend)}")
    if needs_grad:
        raise ValueError("attention back-end 'chunked' has no gradients; use 'plain'")
    return _chunked(q, k, v, rel_h, rel_w)


def pick_backend(device: torch.device, *, needs_grad: bool) -> Backend:
    """The fastest back-end for a device."""
    if device.type == "cuda":
        return "augmented"
    return "plain" if needs_grad else "chunked"


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
    # One "map" is one head of one image or window; several small maps share a chunk.
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    rows = min(num_keys, max(1, CHUNK_SCORES // num_keys))
    maps = max(1, CHUNK_SCORES // num_keys**2)
    out = torch.empty_like(q)
    for start in range(0, len(q), maps):
        here = slice(start, start + maps)
        q_maps, k_maps, v_maps = q[here], k[here].transpose(-2, -1), v[here]
        by_row, by_column = _relative_scores(q_maps, rel_h, rel_w)
        for row in range(0, num_keys, rows):
            part = slice(row, row + rows)
            scores = (by_row[:, part, :, None] + by_column[:, part, None, :]).flatten(-2)
            scores.baddbmm_(q_maps[:, part], k_maps, alpha=shape[-1] ** -0.5)
            out[here, part] = torch.bmm(scores.softmax(-1).to(v.dtype), v_maps)
    return out.view(shape)


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
