"""What all victims share, and a network that no library has: DeepLabV1 on VGG16."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.types import IMAGENET_MEAN, IMAGENET_STD


class Victim(nn.Module):
    """A segmentation network behind one calling convention.

    Normalises the picture, pads it to what the network divides by, and brings the logits back to
    the picture's size, so that fitting and scoring know nothing of the network inside.

    Args:
        network: (B, 3, h, w) normalised -> (B, C, any, any) logits, or an object with `.logits`.
        num_classes: C.
        divisor: the network's input sides must be multiples of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, num_classes: int, divisor: int = 32) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.divisor = divisor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

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


VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV on VGG16 (Chen et al., ICLR 2015), without the CRF; output stride 8.

    The last two poolings keep the size, conv5 is dilated by 2 and fc6 is a 3x3 convolution dilated
    by 12. The official program's evaluation uses a ResNet-38, which no library has.

    Args:
        num_classes: channels of the logits.
        width: factor on every layer's channels.
        batch_norm: with batch normalisation, which training from scratch needs.
        pretrained: torchvision's ImageNet weights (width 1 without batch normalisation).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        batch_norm: bool = False,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        from torchvision.models import VGG16_Weights, vgg16
        from torchvision.models.vgg import make_layers

        if pretrained:
            self.features = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features
        else:
            plan = [c if c == "M" else max(4, round(int(c) * width)) for c in VGG16]
            self.features = make_layers(plan, batch_norm=batch_norm)
            for module in self.features:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        num_pools = 0
        for index, module in enumerate(self.features):
            if isinstance(module, nn.MaxPool2d):
                num_pools += 1
                stride = 2 if num_pools <= 3 else 1
                self.features[index] = nn.MaxPool2d(3, stride=stride, padding=1)
            elif isinstance(module, nn.Conv2d) and num_pools == 4:
                module.dilation, module.padding = (2, 2), (2, 2)
        last = max(4, round(512 * width))
        hidden = max(8, round(1024 * width))
        self.classifier = nn.Sequential(
            nn.Conv2d(last, hidden, 3, padding=12, dilation=12),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(hidden, num_classes, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H/8, W/8)."""
        return self.classifier(self.features(image))
