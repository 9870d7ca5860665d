"""SynPer: synthetic perturbations of each class that a linear classifier tells apart.

Reference: D. Yu, H. Zhang, W. Chen, J. Yin, T.-Y. Liu, "Availability Attacks Create Shortcuts",
KDD 2022. Here for each class of a label map instead of each class of pictures
(docs/METHOD.md, "6. Evaluation").
"""

from __future__ import annotations

import torch
from torch import Tensor

from unseg.protection.methods.base import ByClass, Canvas, scaled_to
from unseg.utils.seed import torch_generator

GRID = 8
"""g: the field is a grid of g x g patches, so a patch's side is p = ceil(max(H, W) / g)."""
NUM_VALUES = 3 * GRID**2
"""d = 192 numbers an image and class (at most 200)."""
SEPARATION = 10.0
RMS = 6.0
"""Root mean square of a class's field over the whole image, in 8-bit grey levels."""


class LinearSeparable(ByClass):
    """One colour for each patch of a grid, drawn around the class's centroid.

    The grid spans the square of side max(H, W) at the top left of the image and is cropped to it.
    """

    title = "linearly separable patches of each class"

    def of_class(self, canvas: Canvas, label: int) -> Tensor:
        """The image plus the class's field."""
        height, width = canvas.image.shape[-2:]
        side = -(-max(height, width) // GRID)
        field = self.values(canvas.key, label).view(1, 3, GRID, GRID)
        field = field.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]
        if canvas.image.shape[1] == 1:
            field = field.mean(1, keepdim=True)
        return canvas.image + scaled_to(field, RMS).to(canvas.image)

    def values(self, key: str, label: int) -> Tensor:
        """(d,) one draw `centroid + z A`, z ~ N(0, I); rows of patches, colour by colour."""
        rng = torch_generator(self.options.seed, "synper", label)
        vertex = torch.randint(0, 2, (NUM_VALUES,), generator=rng) * 2.0 - 1
        spread = torch.rand(NUM_VALUES, NUM_VALUES, generator=rng) * 2 - 1
        own = torch_generator(self.options.seed, "synper", label, key)
        return SEPARATION * vertex + torch.randn(NUM_VALUES, generator=own) @ spread
