"""Segment Anything's two encoders, for the image and for the prompts.

`ImageEncoder` also returns its early tokens and has faster exact attention; `BatchPromptEncoder`
takes batches whose images carry different prompts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unseg.models.attention import Backend, attention
from unseg.models.sam_modules.image_encoder import (
    Block,
    ImageEncoderViT,
    window_partition,
    window_unpartition,
)
from unseg.models.sam_modules.prompt_encoder import PromptEncoder
from unseg.types import (
    ABSENT_LABEL,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NOT_A_POINT_LABEL,
    Prompts,
)


class ImageNetNormalise(nn.Module):
    """`(image - mean) / std`, by default of ImageNet; holds no entry of a state dict.

    The image arrives already padded, so its black border becomes -mean/std here.

    Args:
        mean: of each colour in [0, 1].
        std: likewise; another pair where pre-trained weights were made with one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised copy of (B, 3, H, W) images in [0, 1]."""
        return (image - self.mean) / self.std


class EncoderOutput(NamedTuple):
    """What the players use of an encoder.

    Attributes:
        embedding: (B, out_dim, g, g), after the neck.
        early_tokens: (B, g, g, embed_dim), after the first global block with its MLP, before the
            neck. None for an encoder without such a block.
    """

    embedding: Tensor
    early_tokens: Tensor | None


class ImageEncoder(ImageEncoderViT):
    """ViT image encoder that also returns the tokens after its first global block.

    Names and shapes of its state are `segment_anything`'s. A fresh position embedding is a
    truncated normal of deviation 0.02, as in the ViT papers: `segment_anything` leaves it at zero
    because it always loads weights, and a model trained from scratch would not know where its
    tokens lie. Relative positions start at zero and everything else at torch's defaults, as there.

    Args:
        image_size: side of the square input, a multiple of `patch_size`.
        patch_size: side of a patch.
        embed_dim: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads of each block.
        window_size: side of the attention windows, in tokens.
        global_attn_indexes: blocks that attend over the whole image.
        out_dim: channels after the neck.
    """

    attention_backend: Backend | None = None
    """Forces a back-end of `attention` (benchmarks, tests); None picks by device."""

    checkpoint_blocks: bool = False
    """Gradient checkpointing: blocks keep their inputs only and run again in the backward pass:
    one more forward pass of time for a fraction of the memory."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        window_size: int,
        global_attn_indexes: Sequence[int],
        out_dim: int,
    ) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            out_chans=out_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window_size,
            global_attn_indexes=tuple(global_attn_indexes),
        )
        self.first_global = min(global_attn_indexes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> EncoderOutput:
        """Embedding and early tokens of normalised images (B, 3, S, S)."""
        tokens, early_tokens = self.forward_tokens(x)
        return EncoderOutput(self.neck(tokens.permute(0, 3, 1, 2)), early_tokens)

    def forward_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after the last block and after the first global one, both (B, g, g, embed_dim)."""
        tokens = self.patch_embed(x) + self.pos_embed
        early_tokens = tokens
        for index, block in enumerate(self.blocks):
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(
                    self._block,
                    block,
                    tokens,
                    use_reentrant=False,
                    context_fn=partial(_first_and_second_run, block),
                )
            else:
                tokens = self._block(block, tokens)
            if index == self.first_global:
                early_tokens = tokens if torch.is_grad_enabled() else tokens.clone()
        return tokens, early_tokens

    def _block(self, block: Block, tokens: Tensor) -> Tensor:
        tokens = _residual(tokens, block_attention(block, tokens, backend=self.attention_backend))
        return _residual(tokens, block.mlp(block.norm2(tokens)))


def _residual(tokens: Tensor, branch: Tensor) -> Tensor:
    """The sum of both, in place of `tokens` where no gradient needs them."""
    return tokens + branch if torch.is_grad_enabled() else tokens.add_(branch)


def _first_and_second_run(
    block: Block,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Contexts of a checkpointed block's two runs: weights frozen in the first stay so.

    A step of the generator freezes the surrogate in its forward pass alone, and the second run,
    in the backward pass, has to keep the same tensors as the first.
    """
    still = [parameter for parameter in block.parameters() if not parameter.requires_grad]
    return contextlib.nullcontext(), _frozen(still)


@contextlib.contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def block_attention(block: Block, tokens: Tensor, *, backend: Backend | None = None) -> Tensor:
    """Attention branch of an encoder block, before its residual.

    Queries, keys and values are projected before the tokens are cut into windows, so padding costs
    no projection. A padded token is zero, hence its projection is the bias alone; it does take
    part in the softmax, as in `segment_anything`.

    Args:
        block: block of `segment_anything`'s encoder; `window_size` 0 means global attention.
        tokens: (B, h, w, C).
        backend: see `attention`.

    Returns:
        (B, h, w, C).
    """
    height, width = tokens.shape[1:3]
    layer, window = block.attn, block.window_size
    qkv = layer.qkv(block.norm1(tokens))
    grid = padded = (height, width)
    if window > 0:
        grid = (window, window)
        padded = (height + -height % window, width + -width % window)
        qkv, _ = window_partition(_pad_with_bias(qkv, layer.qkv.bias, padded), window)
    qkv = qkv.reshape(len(qkv), grid[0] * grid[1], 3, layer.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    out = attention(
        q, k, v, rel_pos_h=layer.rel_pos_h, rel_pos_w=layer.rel_pos_w, grid=grid, backend=backend
    )
    out = out.transpose(1, 2).reshape(len(qkv), *grid, -1)
    if window > 0:
        # The output projection too is spared the padding: it comes after the windows are undone.
        out = window_unpartition(out, window, padded, (height, width))
    return layer.proj(out)


def _pad_with_bias(qkv: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Projections (B, h, w, 3C), padded at bottom and right with those of a zero token."""
    height, width = qkv.shape[1:3]
    if size == (height, width):
        return qkv
    padded = bias.to(qkv.dtype).expand(len(qkv), *size, -1).clone()
    padded[:, :height, :width] = qkv
    return padded


def resample_pos_embed(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embedding for another grid, resampled bicubically.

    Args:
        pos_embed: (1, h, w, C).
        grid: tokens per side wanted.

    Returns:
        (1, grid, grid, C); the argument itself where it already fits.
    """
    if pos_embed.shape[1:3] == (grid, grid):
        return pos_embed
    channels_first = pos_embed.permute(0, 3, 1, 2)
    resampled = F.interpolate(channels_first, (grid, grid), mode="bicubic", align_corners=False)
    return resampled.permute(0, 2, 3, 1)


class EncodedPrompts(NamedTuple):
    """Embedded prompts of a batch.

    Attributes:
        sparse: (B, N, C) tokens: points, Segment Anything's padding point, box corners.
        present: (B, N) bool, False where an image has no such token.
        dense: (B, C, g, g) mask embedding, or the no-mask embedding.
    """

    sparse: Tensor
    present: Tensor
    dense: Tensor


class BatchPromptEncoder(PromptEncoder):
    """Prompt encoder that takes `Prompts`, with absent ones marked per image.

    Segment Anything appends a "not a point" token to points without a box. Here an image gets it
    exactly if it has points and no box of its own, whatever the others of its batch have.
    """

    def forward(self, prompts: Prompts, batch_size: int) -> EncodedPrompts:
        """Tokens, their presence and the dense embedding of a batch.

        Args:
            prompts: prompts in pixels of the model's frame; see `unseg.types.Prompts`.
            batch_size: number of images, which prompts of no kind at all do not tell.
        """
        tokens = [self.no_mask_embed.weight.new_empty(batch_size, 0, self.embed_dim)]
        present = [tokens[0].new_empty(batch_size, 0, dtype=torch.bool)]
        has_box = tokens[0].new_zeros(batch_size, dtype=torch.bool)
        if prompts.boxes is not None:
            has_box = ~prompts.boxes.isnan().all(1)
        if prompts.point_coords is not None and prompts.point_labels is not None:
            embedded, exists = self._points(prompts.point_coords, prompts.point_labels, has_box)
            tokens.append(embedded)
            present.append(exists)
        if prompts.boxes is not None:
            boxes = torch.where(has_box[:, None], prompts.boxes, 0)
            tokens.append(self._boxes(boxes))
            present.append(has_box[:, None].expand(-1, 2))
        return EncodedPrompts(
            sparse=torch.cat(tokens, dim=1),
            present=torch.cat(present, dim=1),
            dense=self._masks(prompts.mask_inputs, batch_size),
        )

    def get_dense_pe(self) -> Tensor:
        """Positional encoding of the grid, (1, C, g, g), in float32 under autocast too."""
        with self._full_precision():
            return super().get_dense_pe()

    def _full_precision(self) -> torch.autocast:
        # Coordinates meet random frequencies in a sine: eight bits would move a point by pixels.
        return torch.autocast(self._get_device().type, enabled=False)

    def _positions(self, coords: Tensor) -> Tensor:
        """Positional encoding (B, N, C) of pixel coordinates (B, N, 2), (X, Y)."""
        with self._full_precision():
            return self.pe_layer.forward_with_coords(coords.float() + 0.5, self.input_image_size)

    def _points(self, coords: Tensor, labels: Tensor, has_box: Tensor) -> tuple[Tensor, Tensor]:
        """Point tokens (B, N + 1, C), the last of them the padding point, and their presence."""
        exists = labels != ABSENT_LABEL
        padded = exists.any(1) & ~has_box
        exists = torch.cat([exists, padded[:, None]], dim=1)
        labels = torch.cat([labels, labels.new_full((len(labels), 1), NOT_A_POINT_LABEL)], dim=1)
        coords = torch.cat([coords, coords.new_zeros(len(coords), 1, 2)], dim=1)
        labels = labels[..., None]
        is_point = labels >= 0
        tokens = self._positions(torch.where(is_point, coords, 0)) * is_point
        for label, embedding in (
            (NOT_A_POINT_LABEL, self.not_a_point_embed),
            (0, self.point_embeddings[0]),
            (1, self.point_embeddings[1]),
        ):
            tokens = tokens + (labels == label) * embedding.weight
        return tokens, exists

    def _boxes(self, boxes: Tensor) -> Tensor:
        """Corner tokens (B, 2, C) of boxes (B, 4)."""
        corners = torch.cat([self.point_embeddings[2].weight, self.point_embeddings[3].weight])
        return self._positions(boxes.view(-1, 2, 2)) + corners

    def _masks(self, masks: Tensor | None, batch_size: int) -> Tensor:
        """Dense embedding (B, C, g, g)."""
        no_mask = self.no_mask_embed.weight.view(1, -1, 1, 1)
        if masks is None:
            return no_mask.expand(batch_size, -1, *self.image_embedding_size)
        if tuple(masks.shape[1:]) != (1, *self.mask_input_size):
            raise ValueError(
                f"mask_inputs are {tuple(masks.shape)}; this model takes "
                f"(B, 1, {self.mask_input_size[0]}, {self.mask_input_size[1]})"
            )
        absent = masks.isnan().flatten(1).all(1).view(-1, 1, 1, 1)
        embedded = self.mask_downscaling(torch.where(absent, 0, masks.float()))
        return torch.where(absent, no_mask.to(embedded.dtype), embedded)
