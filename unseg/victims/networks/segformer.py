"""SegFormer (Xie et al., NeurIPS 2021) of transformers as a victim."""

from __future__ import annotations

from torch import nn

from unseg.victims.networks.victim import NetworkOptions

SIZES = {
    "tiny": ((1, 1, 1, 1), (16, 32, 48, 64), 64),
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
}
"""Blocks of each stage, width of each stage, width of the decoder."""


def build_segformer(options: NetworkOptions, *, size: str) -> nn.Module:
    """The network with random weights, or with an ImageNet encoder (download).

    Args:
        options: width scales every stage and the decoder.
        size: "b0" or "b2".
    """
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    if options.pretrained:
        return SegformerForSemanticSegmentation.from_pretrained(
            options.encoder or f"nvidia/mit-{size}", num_labels=options.num_classes
        )
    depths, channels, decoder = SIZES["tiny" if options.tiny else size]
    heads = (1, 2, 4, 8) if options.tiny else (1, 2, 5, 8)
    config = SegformerConfig(
        depths=list(depths),
        hidden_sizes=[options.scaled(c, multiple=h) for c, h in zip(channels, heads, strict=True)],
        num_attention_heads=list(heads),
        decoder_hidden_size=options.scaled(decoder),
        num_labels=options.num_classes,
    )
    return SegformerForSemanticSegmentation(config)
