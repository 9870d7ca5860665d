"""The calling convention of victims that find objects."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unseg.victims.data.segments import Found, Frame, Target
from unseg.victims.networks.victim import Victim


class ObjectVictim(Victim):
    """A network that learns from segments; one class for each family of networks."""

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """The family's own training loss.

        Args:
            images: (B, 3, S, S) float in [0, 1].
            targets: one a picture; a picture may have no segment at all.

        Returns:
            Scalar.
        """
        raise NotImplementedError

    def find(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        task: str,
        things: frozenset[int] = frozenset(),
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Found]:
        """What is found in each picture, at the size at which it is scored.

        Args:
            images: (B, 3, S, S) float in [0, 1]; the victim must be in eval mode.
            frames: where the pictures lie in the square, and the sizes to answer at.
            task: "panoptic" (masks do not overlap), "instance", "detection" or "interactive".
            things: panoptic: countable classes; segments of the others are merged.
            boxes: interactive: prompts (K, 4) XYXY of each picture, in pixels of the square;
                exactly one mask answers each, in order.
        """
        raise NotImplementedError
