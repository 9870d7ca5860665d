"""Which pictures of a step's batch a process trains on, where several train one victim."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Every `ranks`-th picture of a batch, from number `rank` on.

    So each process has as many, and as many of the first half, which some defences attack.

    Attributes:
        rank: number of this process.
        ranks: number of processes.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, values: Tensor) -> Tensor:
        """The share of values (B, ...), one a picture of the whole batch."""
        return values[self.rank :: self.ranks]


WHOLE = Share()
"""One process trains on every picture."""
