"""Segment Anything's two-way transformer for batches with different numbers of prompt tokens."""

from __future__ import annotations

import torch.nn.functional as F
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor


class MaskedTwoWayTransformer(TwoWayTransformer):
    """Two-way transformer in which absent tokens take part in no attention.

    Tokens are keys in two places, the self attention and the attention from image to tokens; both
    leave the absent ones out. Absent tokens still compute something of their own, which nobody
    reads.
    """

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        point_embedding: Tensor,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Processed tokens (B, N, C) and image embedding (B, h * w, C).

        Args:
            image_embedding: (B, C, h, w).
            image_pe: (1 or B, C, h, w) positional encoding of the grid.
            point_embedding: (B, N, C) tokens.
            present: (B, N) bool; None means that every token exists.
        """
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = query_pe = point_embedding
        for layer in self.layers:
            queries, keys = _two_way(layer, queries, keys, query_pe, key_pe, present)
        attended = attend(
            self.final_attn_token_to_image, queries + query_pe, keys + key_pe, keys, None
        )
        return self.norm_final_attn(queries + attended), keys


def _two_way(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    keys: Tensor,
    query_pe: Tensor,
    key_pe: Tensor,
    present: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One layer: tokens to tokens, tokens to image, MLP of the tokens, image to tokens."""
    if layer.skip_first_layer_pe:
        # The first layer's tokens are their own positions, and it has no residual here.
        queries = attend(layer.self_attn, queries, queries, queries, present)
    else:
        placed = queries + query_pe
        queries = queries + attend(layer.self_attn, placed, placed, queries, present)
    queries = layer.norm1(queries)

    placed_keys = keys + key_pe
    to_image = layer.cross_attn_token_to_image
    queries = layer.norm2(queries + attend(to_image, queries + query_pe, placed_keys, keys, None))
    queries = layer.norm3(queries + layer.mlp(queries))

    to_tokens = layer.cross_attn_image_to_token
    keys = keys + attend(to_tokens, placed_keys, queries + query_pe, queries, present)
    return queries, layer.norm4(keys)


def attend(layer: Attention, q: Tensor, k: Tensor, v: Tensor, present: Tensor | None) -> Tensor:
    """Output (B, Nq, C) of an attention layer over those keys that are present.

    Args:
        layer: its projections and head count are used.
        q: (B, Nq, C).
        k: (B, Nk, C).
        v: (B, Nk, C).
        present: (B, Nk) bool; None means that every key is.
    """
    q, k, v = (
        projection(x).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for projection, x in ((layer.q_proj, q), (layer.k_proj, k), (layer.v_proj, v))
    )
    mask = None if present is None else present[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return layer.out_proj(out.transpose(1, 2).flatten(2))
