"""A recipe and pictures of squares that a tiny victim learns within seconds."""

from __future__ import annotations

import torch

from unseg.config.evaluate import RecipeConfig
from unseg.victims.data.tensor_set import TensorSet

RECIPE = RecipeConfig(image_size=16, epochs=4, batch_size=4, lr=3e-3)


def tensor_set(count: int, seed: int = 0) -> TensorSet:
    """Bright squares on a dark ground."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 16, 16, dtype=torch.uint8)
    for i in range(count):
        y, x = torch.randint(0, 8, (2,), generator=rng).tolist()
        labels[i, y : y + 8, x : x + 8] = 1
    noise = torch.randint(0, 60, (count, 3, 16, 16), generator=rng)
    images = (labels[:, None] * 150 + noise).to(torch.uint8)
    keys = tuple(f"p{seed}-{i}" for i in range(count))
    return TensorSet(images, labels, keys, torch.tensor([[16, 16]] * count))
