"""Two decoders on Segment Anything's: noise for the generator, one mask for the surrogate.

Both run learned tokens (the generator's noise tokens among them) and prompt tokens through a
two-way transformer that leaves absent prompts out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.models.encoder import EncodedPrompts
from unseg.models.sam_modules.common import LayerNorm2d
from unseg.models.sam_modules.mask_decoder import MLP, MaskDecoder
from unseg.models.sam_modules.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer

NoiseReadout = Literal["noise_tokens", "official"]

NUM_NOISE_TOKENS = 3
"""One for each colour channel."""


class DecoderOutput(NamedTuple):
    """What the two-way transformer makes of tokens and image.

    Attributes:
        tokens: (B, T + N, C) outputs of the T learned tokens and the N prompt tokens.
        upscaled: (B, C / 8, 4g, 4g) upscaled image embedding.
    """

    tokens: Tensor
    upscaled: Tensor


class BatchMaskDecoder(MaskDecoder):
    """What both decoders share: learned tokens and prompts through the two-way transformer.

    Args:
        dim: width of the tokens and of the image embedding.
        num_heads: attention heads.
        mlp_dim: hidden width of the token MLPs.
        num_mask_tokens: mask tokens, the first included.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_dim: int, num_mask_tokens: int) -> None:
        transformer = MaskedTwoWayTransformer(
            depth=2, embedding_dim=dim, num_heads=num_heads, mlp_dim=mlp_dim
        )
        super().__init__(
            transformer_dim=dim,
            transformer=transformer,
            num_multimask_outputs=num_mask_tokens - 1,
            iou_head_depth=3,
            iou_head_hidden_dim=dim,
        )

    def _decode(
        self, learned: list[Tensor], embedding: Tensor, image_pe: Tensor, prompts: EncodedPrompts
    ) -> DecoderOutput:
        """Run the two-way transformer and the upscaler.

        Args:
            learned: embedding tables (n, C) of the learned tokens, which come first, in this order.
            embedding: (B, C, g, g) image embedding.
            image_pe: (1, C, g, g) positional encoding of the grid.
            prompts: embedded prompts.
        """
        table = torch.cat(learned)
        batch_size, num_learned = len(embedding), len(table)
        tokens = torch.cat([table.expand(batch_size, -1, -1), prompts.sparse], dim=1)
        exists = prompts.present.new_ones(batch_size, num_learned)
        present = torch.cat([exists, prompts.present], dim=1)
        tokens, image = self.transformer(embedding + prompts.dense, image_pe, tokens, present)
        image = image.transpose(1, 2).unflatten(2, embedding.shape[-2:])
        return DecoderOutput(tokens, self.output_upscaling(image))


class NoiseDecoder(BatchMaskDecoder):
    """Mask decoder with three noise tokens and the branches that turn them into colour noise.

    Everything whose name contains `noise` is new to Segment Anything and trainable
    (docs/METHOD.md, "2. Generator"). Its token embeddings and (transposed) convolutions start
    Xavier-uniform, its biases and MLPs at torch's defaults.

    Args:
        dim: width of the tokens and of the image embedding.
        num_heads: attention heads.
        mlp_dim: hidden width of the token MLPs.
        vit_dim: width of the encoder's tokens.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_dim: int, vit_dim: int) -> None:
        super().__init__(dim=dim, num_heads=num_heads, mlp_dim=mlp_dim, num_mask_tokens=4)
        self.noise_token = nn.Embedding(NUM_NOISE_TOKENS, dim)
        self.noise_mlp = nn.ModuleList(MLP(dim, dim, dim // 8, 3) for _ in range(NUM_NOISE_TOKENS))
        self.noise_compress_vit_feat = nn.Sequential(
            nn.Conv2d(vit_dim, vit_dim, kernel_size=3, padding=1), *_upscale(vit_dim, dim, dim // 8)
        )
        self.noise_embedding_encoder = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1), *_upscale(dim, dim // 4, dim // 8)
        )
        self.noise_embedding_maskfeature = nn.Sequential(
            nn.Conv2d(dim // 8, dim // 4, kernel_size=3, padding=1),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 8, kernel_size=3, padding=1),
        )
        for name, module in self.named_modules():
            if "noise" in name and isinstance(
                module, nn.Embedding | nn.Conv2d | nn.ConvTranspose2d
            ):
                nn.init.xavier_uniform_(module.weight)

    def forward(
        self,
        embedding: Tensor,
        early_tokens: Tensor,
        image_pe: Tensor,
        prompts: EncodedPrompts,
        *,
        readout: NoiseReadout,
    ) -> Tensor:
        """Noise before its tanh, (B, 3, 4g, 4g).

        Args:
            embedding: (B, C, g, g) image embedding.
            early_tokens: (B, g, g, vit_dim) tokens after the encoder's first global block.
            image_pe: (1, C, g, g) positional encoding of the grid.
            prompts: embedded prompts.
            readout: which outputs become noise. `noise_tokens` reads those of the noise tokens.
                DEVIATION: the released program reads one place earlier (`official`: the last mask
                token and the first two noise tokens), and its weights are trained for that.
        """
        tables = [self.iou_token.weight, self.mask_tokens.weight, self.noise_token.weight]
        decoded = self._decode(tables, embedding, image_pe, prompts)
        features = (
            self.noise_embedding_maskfeature(decoded.upscaled)
            + self.noise_embedding_encoder(embedding)
            + self.noise_compress_vit_feat(early_tokens.permute(0, 3, 1, 2))
        )
        first = 1 + self.num_mask_tokens - (readout == "official")
        vectors = torch.stack(
            [mlp(decoded.tokens[:, first + i]) for i, mlp in enumerate(self.noise_mlp)], dim=1
        )
        return (vectors @ features.flatten(2)).unflatten(2, features.shape[-2:])


class SingleMaskDecoder(BatchMaskDecoder):
    """One mask for the surrogate: three mask tokens of which the first is used, no IoU prediction.

    Args:
        dim: width of the tokens and of the image embedding.
        num_heads: attention heads.
        mlp_dim: hidden width of the token MLPs.
        sam_layout: have all tokens and heads of Segment Anything (an IoU token, four mask tokens),
            so that the tensors are those of its files. The IoU head is not used then either.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_dim: int, sam_layout: bool = False) -> None:
        num_mask_tokens = 4 if sam_layout else 3
        super().__init__(
            dim=dim, num_heads=num_heads, mlp_dim=mlp_dim, num_mask_tokens=num_mask_tokens
        )
        self.sam_layout = sam_layout
        if not sam_layout:
            del self.iou_token, self.iou_prediction_head

    def forward(self, embedding: Tensor, image_pe: Tensor, prompts: EncodedPrompts) -> Tensor:
        """Mask logits (B, 1, 4g, 4g); arguments as in `NoiseDecoder.forward`."""
        before = [self.iou_token.weight] if self.sam_layout else []
        decoded = self._decode([*before, self.mask_tokens.weight], embedding, image_pe, prompts)
        first = len(before)
        vector = self.output_hypernetworks_mlps[0](decoded.tokens[:, first : first + 1])
        return (vector @ decoded.upscaled.flatten(2)).unflatten(2, decoded.upscaled.shape[-2:])


def _upscale(in_dim: int, hidden_dim: int, out_dim: int) -> list[nn.Module]:
    """Four-fold upscaling that follows a 3x3 convolution in two of the noise branches."""
    return [
        LayerNorm2d(in_dim),
        nn.GELU(),
        nn.ConvTranspose2d(in_dim, hidden_dim, kernel_size=2, stride=2),
        LayerNorm2d(hidden_dim),
        nn.GELU(),
        nn.ConvTranspose2d(hidden_dim, out_dim, kernel_size=2, stride=2),
    ]


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
