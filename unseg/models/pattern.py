"""A generator that looks at nothing: one pattern for every picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unseg.noise import Carrier
from unseg.types import Prompts


class Pattern(nn.Module):
    """Noise that is the same whatever the picture and the prompt; the region alone tells objects.

    It stands where a `Generator` may, for protecting pictures: a frozen network would be called,
    and its noise composed, in the same way.

    Args:
        noise: (3, n, n) in [-1, 1].
        carrier: how cells become pixels, and what grey pictures carry.

    Attributes:
        image_size: side of the square in which prompts are given, 4n.
        noise_size: n.
        noise_carrier: as given.
        encoder_dtype: without a meaning here, as there is no encoder.
        epsilon_bg: budget outside of the region where none is given: the pattern marks the object
            by its contrast, so there is nothing to gain there (docs/METHOD.md, "5. Generation").
    """

    encoder_dtype: torch.dtype | None = None
    epsilon_bg: float = 0

    def __init__(self, noise: Tensor, carrier: Carrier) -> None:
        super().__init__()
        self.noise = nn.Parameter(noise.float(), requires_grad=False)
        self.noise_carrier = carrier
        self.noise_size = noise.shape[-1]
        self.image_size = 4 * self.noise_size

    @classmethod
    def checks(cls, side: int, carrier: Carrier) -> Pattern:
        """The chequerboard of the method `checks`, with `side` cells on the longer side."""
        return cls(carrier.noise(carrier.checks(side))[0], carrier)

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Unit noise (B, 3, n, n) for images (B, 3, 4n, 4n)."""
        del prompts
        return self.noise.expand(len(image), -1, -1, -1)
