"""The extra branch of divide-and-conquer adversarial training; it exists in training alone.

Reference: X. Xu, H. Zhao, J. Jia, "Dynamic Divide-and-Conquer Adversarial Training for Robust
Semantic Segmentation", ICCV 2021 (DDC-AT).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.utils.seed import derive_seed
from unseg.victims.networks.victim import Victim
from unseg.victims.training.last_layer import class_head


class ExtraBranch(nn.Module):
    """A second head on the features that a victim's last layer classifies.

    It looks on while the victim runs and adds nothing to the victim's own weights or files.

    Args:
        victim: the last convolution of its network that yields one channel a class is its head.
        seed: of the initial weights.

    Raises:
        UserError: the victim has no such layer.
    """

    def __init__(self, victim: Victim, *, seed: int) -> None:
        super().__init__()
        head = class_head(victim, defence="ddc_at")
        width = head.in_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "extra branch"))
            self.layers = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, victim.num_classes, 1),
            )
        self.layers.to(head.weight.device)
        self._divisor = victim.divisor
        self._features: Tensor | None = None
        self._looking = head.register_forward_pre_hook(self._look)

    def close(self) -> None:
        """Look on no longer."""
        self._looking.remove()

    def _look(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        self._features = inputs[0]

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Logits (B, C, H, W) of the pictures that the victim has just seen.

        Args:
            size: (H, W) of those pictures.
        """
        assert self._features is not None
        logits = self.layers(self._features)
        self._features = None
        padded = [side + -side % self._divisor for side in size]
        logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]
