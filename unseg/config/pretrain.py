"""What masked-autoencoder pre-training can be told: `unseg pretrain-mae CONFIG.yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unseg.config.load import bounded


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-training of a surrogate's encoder on any folder of images; no labels."""

    name: str
    """Name of the run directory."""
    root: str
    """Folder that is searched for images."""
    size: Literal["tiny", "small", "vit_b", "vit_l", "vit_h"] = "vit_b"
    """Model size of the surrogate that the encoder is for."""
    image_size: int = bounded(224, low=16)
    """Side of the crops; positions are resampled when the encoder is used at another."""
    mask_ratio: float = bounded(0.75, low=0.05, high=0.95)
    """Share of hidden patches."""
    decoder_dim: int = bounded(512, low=16)
    """Width of the decoder, which is thrown away; a multiple of the heads."""
    decoder_depth: int = bounded(8, low=1)
    """Blocks of the decoder."""
    steps: int = bounded(low=1)
    """Optimiser steps."""
    batch_size: int = bounded(256, low=1)
    """Images of one step, over all ranks."""
    lr: float = bounded(1.5e-4, low=0)
    """Highest learning rate: 5 % warm-up, then half a cosine to zero."""
    weight_decay: float = bounded(0.05, low=0)
    """AdamW's weight decay."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the networks under autocast."""
    seed: int = bounded(42, low=0)
    """All random draws derive from it."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    output_dir: str = "work_dirs"
    """Parent folder of the run directory."""
    log_every: int = bounded(20, low=1)
    """Steps between two log lines."""
    checkpoint_every: int = bounded(500, low=1)
    """Steps between two checkpoints, from which a stopped run goes on by itself."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types and bounds cannot say."""
        if self.decoder_dim % 8:
            yield "decoder_dim", "must be a multiple of 8"


NOT_METHOD = ("name", "root", "device", "output_dir", "log_every", "checkpoint_every")
"""Keys that may differ between a checkpoint and the run that goes on from it."""
