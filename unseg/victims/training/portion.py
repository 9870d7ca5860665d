"""What one part of a step's batch contributes to the loss of the whole batch.

A batch is divided over processes and, to save memory, into parts that one process sees one after
the other. Contributions add up, over processes and parts, to the loss that one process would have
of the whole batch, and so do their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unseg.utils import distributed


@dataclass(frozen=True)
class Portion:
    """One of the parts of a step's batch; all hold as many pictures.

    Attributes:
        ranks: processes that train together.
        parts: parts that each of them sees one after the other.
        counted: scalar, pixels of the whole batch that count, where labels are maps of classes.
    """

    ranks: int
    parts: int
    counted: Tensor | None = None

    def of_mean(self, loss: Tensor) -> Tensor:
        """Contribution where the loss of the whole batch is the mean of those of all parts."""
        return loss / (self.ranks * self.parts)

    def of_joint(self, loss: Tensor) -> Tensor:
        """Contribution where a loss has been computed of sums over all processes (`whole`)."""
        return (loss - (1 - 1 / self.ranks) * loss.detach()) / self.parts

    @staticmethod
    def whole(tensor: Tensor) -> Tensor:
        """Sum over all processes; its gradient reaches this process's own addend."""
        return distributed.sum_with_own_gradient(tensor)
