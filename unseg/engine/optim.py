"""One Adam for each player and the learning rate they share the shape of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class RateSchedule:
    """Learning rate as a pure function of where the run is: nothing to step, nothing to restore.

    Attributes:
        unit: unit of `drop_at`, counted over the whole run, whoever learns.
        drop_at: from each of these on the rate is multiplied by `drop_factor` once more.
        drop_factor: the multiplier.
    """

    unit: Literal["epochs", "steps"] = "epochs"
    drop_at: tuple[int, ...] = (20,)
    drop_factor: float = 0.1

    def factor(self, *, epoch: int, step: int) -> float:
        """Multiplier of the initial rate in this step."""
        position = epoch if self.unit == "epochs" else step
        return self.drop_factor ** sum(position >= at for at in self.drop_at)


def build_adam(parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Adam:
    """Adam as in the paper: betas (0.9, 0.999), eps 1e-8, no weight decay."""
    return torch.optim.Adam(list(parameters), lr=lr, betas=(0.9, 0.999), eps=1e-8)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
