"""A masked autoencoder around the surrogate's encoder.

The idea is He et al., CVPR 2022: hide most patches, let the encoder see the rest alone, and let a
small decoder paint what is hidden. Written afresh from the paper. Attention is global over the
visible tokens and has no relative positions; the blocks' other weights bear Segment Anything's
names, so the encoder loads into the surrogate as MAE's own weights do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.models.encoder import ImageEncoder, ImageNetNormalise
from unseg.models.sam_modules.image_encoder import Attention


class Autoencoder(nn.Module):
    """A surrogate's encoder on visible patches, and a decoder for the hidden ones.

    Args:
        encoder: its patch embedding, positions and blocks are trained; its neck and relative
            positions take no part.
        decoder_dim: width of the decoder's tokens.
        decoder_depth: number of decoder blocks.
        num_heads: attention heads of a decoder block.
    """

    def __init__(
        self, encoder: ImageEncoder, *, decoder_dim: int, decoder_depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalise = ImageNetNormalise()
        self.patch = int(encoder.patch_embed.proj.kernel_size[0])
        positions = encoder.pos_embed
        assert positions is not None
        self.grid, dim = positions.shape[1], positions.shape[-1]
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduce = nn.Linear(dim, decoder_dim)
        self.hidden_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder_positions = nn.Parameter(torch.zeros(self.grid**2, decoder_dim))
        self.decoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                decoder_dim,
                num_heads,
                dim_feedforward=4 * decoder_dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            ),
            decoder_depth,
            norm=nn.LayerNorm(decoder_dim),
            enable_nested_tensor=False,
        )
        self.paint = nn.Linear(decoder_dim, 3 * self.patch**2)
        for parameter in (self.hidden_token, self.decoder_positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor, order: Tensor, num_visible: int) -> Tensor:
        """Mean squared error of the hidden patches, each normalised by its own mean and deviation.

        Args:
            image: (B, 3, s, s) in [0, 1].
            order: (B, N) a permutation of the patches of each image; the first are visible.
            num_visible: how many.

        Returns:
            (B,).
        """
        pixels = self.normalise(image)
        visible = order[:, :num_visible]
        encoded = self.encode(pixels, visible)
        tokens = self.hidden_token.expand(*order.shape, -1)
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = tokens.scatter(1, index, self.reduce(self.norm(encoded)).to(tokens.dtype))
        painted = self.paint(self.decoder(tokens + self.decoder_positions))
        error = (painted.float() - self.targets(pixels)).square().mean(dim=-1)
        return error.gather(1, order[:, num_visible:]).mean(dim=1)

    def encode(self, pixels: Tensor, visible: Tensor) -> Tensor:
        """(B, V, C) tokens of the visible patches after the last block."""
        embedded = self.encoder.patch_embed(pixels) + self.encoder.pos_embed
        tokens = embedded.flatten(1, 2)
        tokens = tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        for block in self.encoder.blocks:
            tokens = tokens + _global_attention(block.attn, block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        return tokens

    def targets(self, pixels: Tensor) -> Tensor:
        """(B, N, 3 p p): each patch's pixels, without their mean, at unit deviation."""
        patches = F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        return (patches - mean) / torch.sqrt(variance + 1e-6)

    def trained_state(self) -> dict[str, Tensor]:
        """The encoder's tensors that pre-training changed, by Segment Anything's names."""
        return {
            name: value
            for name, value in self.encoder.state_dict().items()
            if not name.startswith("neck.") and ".rel_pos_" not in name
        }


def _global_attention(layer: Attention, tokens: Tensor) -> Tensor:
    """Self-attention over (B, V, C) with the weights of a Segment Anything attention layer."""
    batch, count, dim = tokens.shape
    qkv = layer.qkv(tokens).view(batch, count, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
    return layer.proj(mixed.transpose(1, 2).reshape(batch, count, dim))
