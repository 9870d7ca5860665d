"""What the two pre-trainings can be told: `unseg pretrain-mae` and `unseg pretrain-sam`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unseg.config.load import bounded
from unseg.config.train import DataConfig, Size


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


@dataclass(frozen=True, kw_only=True)
class PretrainSamConfig:
    """Training of a promptable segmenter on clean pairs: a frozen part for small generators."""

    name: str
    """Name of the run directory."""
    data: DataConfig
    """Training and validation pairs."""
    size: Size
    """Model size, that of the generators it is for."""
    image_size: int = bounded(low=32)
    """Side of the square input; positions are resampled for a generator of another."""
    weights: str | None = None
    """MAE weights for the encoder (`unseg pretrain-mae`), a segmenter to begin from, or null for
    random ones."""
    num_points: int = bounded(12_544, low=1)
    """Sampled points a mask."""
    steps: int = bounded(low=1)
    """Optimiser steps."""
    batch_size: int = bounded(32, low=1)
    """Images of one step, over all ranks."""
    lr: float = bounded(1e-4, low=0)
    """Learning rate at the start; Adam, no weight decay."""
    drop_at: tuple[int, ...] = ()
    """From each of these steps on, the rate is a tenth of what it was before."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the network under autocast; losses and weights stay float32."""
    seed: int = bounded(42, low=0)
    """All random draws derive from it."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    output_dir: str = "work_dirs"
    """Parent folder of the run directory."""
    log_every: int = bounded(20, low=1)
    """Steps between two log lines."""
    validate_every: int = bounded(500, low=1)
    """Steps between two validations, each with a checkpoint; also at the end."""
    validate_limit: int | None = bounded(None, low=1)
    """At most so many samples of each validation set, spread evenly over it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types and bounds cannot say."""
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield "name", "must be a plain folder name"


SAM_NOT_METHOD = (
    "name",
    "device",
    "output_dir",
    "log_every",
    "validate_every",
    "validate_limit",
    "steps",
    "weights",
    "data.root",
    "data.links_to",
    "data.num_workers",
)
"""The same for a segmenter; its initial weights are in the checkpoint already."""
