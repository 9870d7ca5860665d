"""Segment Anything's prompt encoder for batches whose images carry different prompts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

from unseg.types import ABSENT_LABEL, NOT_A_POINT_LABEL, Prompts


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
