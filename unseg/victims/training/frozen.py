"""`frozen-K`: the stem and the first stages of a pretrained encoder stay as they are.

After SSC (2026), which loads and freezes shallow layers: what they see was fixed before the noise
was there.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from unseg.utils.errors import UserError
from unseg.victims.networks.victim import Victim


class FrozenStages:
    """Freezes parts of a victim, running statistics included, until it is closed.

    Args:
        victim: its encoder is of the family of EfficientNet or ResNet.
        stages: how many after the stem.

    Raises:
        UserError: no such encoder, or fewer stages.
    """

    def __init__(self, victim: Victim, stages: int) -> None:
        self.parts = early_parts(victim, stages)
        self._hooks = [part.register_forward_pre_hook(_as_tested) for part in self.parts]
        parameters = (p for part in self.parts for p in part.parameters())
        self._parameters = [p for p in parameters if p.requires_grad]
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def close(self) -> None:
        """Freeze no longer."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def early_parts(victim: Victim, stages: int) -> list[nn.Module]:
    """The layers of the stem, and so many stages after it."""
    for module in victim.network.modules():
        names = dict(module.named_children())
        if {"conv_stem", "bn1", "blocks"} <= names.keys():
            found = [names["conv_stem"], names["bn1"]], list(names["blocks"].children())
        elif {"conv1", "bn1", "layer1", "layer4"} <= names.keys():
            found = [names["conv1"], names["bn1"]], [names[f"layer{i}"] for i in range(1, 5)]
        else:
            continue
        stem, later = found
        if stages > len(later):
            raise UserError(f"defence frozen-{stages}: this encoder has {len(later)} stages")
        return [*stem, *later[:stages]]
    raise UserError(
        f"defence frozen-{stages} needs an encoder of the family of EfficientNet or ResNet; "
        "use unet_efficientnet_lite0"
    )


def _as_tested(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """The running statistics of a frozen part do not move; an epoch begins in training mode."""
    del inputs
    module.eval()
