"""What all victims share: how a network is asked for, and how it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.types import IMAGENET_MEAN, IMAGENET_STD
from unseg.victims.data.segments import Found, Frame, Target

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What a network is asked to be.

    Attributes:
        num_classes: C.
        tiny: the small version for the CPU.
        width: factor on the channels (see each builder for which).
        pretrained: initialise the encoder from the library's own weights (may download).
        encoder: another encoder of the same library, by its name there.
        image_size: side of the square frame, for networks that are built for one.
    """

    num_classes: int
    tiny: bool = False
    width: float = 1.0
    pretrained: bool = False
    encoder: str | None = None
    image_size: int = 1024

    def scaled(self, channels: int, *, multiple: int = 1) -> int:
        """Channels times the width, rounded to a multiple that is at least one."""
        return max(multiple, round(channels * self.width / multiple) * multiple)


class Victim(nn.Module):
    """A segmentation network behind one calling convention.

    Normalises the picture, pads it to what the network divides by, and brings the logits back to
    the picture's size, so that fitting and scoring know nothing of the network inside.

    Args:
        network: (B, 3, h, w) normalised -> (B, C, any, any) logits, or an object with `.logits`.
        num_classes: C.
        divisor: the network's input sides must be multiples of it.
        statistics: mean and standard deviation of each colour that pictures are normalised by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        divisor: int = 32,
        statistics: Statistics = (IMAGENET_MEAN, IMAGENET_STD),
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.divisor = divisor
        for name, values in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.has_frozen_norms = False

    def freeze_norms(self) -> None:
        """From now on batch norm works with the statistics and factors that it has."""
        self.has_frozen_norms = True
        freeze_norms(self)

    def train(self, mode: bool = True) -> Victim:
        """As any module's; frozen batch norm stays as it is."""
        super().train(mode)
        if self.has_frozen_norms:
            freeze_norms(self)
        return self

    def translated(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file, under the network's names where the file has official ones."""
        return state

    def prepare(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], normalised and padded to what the network divides by."""
        height, width = image.shape[-2:]
        right, bottom = -width % self.divisor, -height % self.divisor
        return F.pad((image - self.mean) / self.std, (0, right, 0, bottom))

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (B, C, H, W) of pictures (B, 3, H, W) in [0, 1]."""
        height, width = image.shape[-2:]
        padded = self.prepare(image)
        logits = self.network(padded)
        logits = getattr(logits, "logits", logits)
        if logits.shape[-2:] != padded.shape[-2:]:
            logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


class ObjectVictim(Victim):
    """A network that learns from segments; one class for each family of networks.

    `loss` and `find` are the interface of all families: tasks call them alike, whichever family
    they have, and a family ignores what its tasks do not use.
    """

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


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Layers with statistics of batches."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def freeze_norms(network: nn.Module) -> None:
    """Let batch norm move neither its statistics nor its factors."""
    for norm in batch_norms(network):
        norm.eval().requires_grad_(False)


def channels_last(images: Tensor) -> Tensor:
    """A layout a quarter to a third faster than the default one, on CPU too."""
    return images.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision that a recipe names."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
