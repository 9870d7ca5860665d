"""DeepLabV1 on VGG16, a victim that no library has."""

from __future__ import annotations

from torch import Tensor, nn

from unseg.victims.networks.victim import NetworkOptions

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


def build_deeplab_v1(options: NetworkOptions) -> nn.Module:
    """Width scales every layer; the tiny version has batch normalisation."""
    return DeepLabV1(
        options.num_classes,
        width=options.width / 8 if options.tiny else options.width,
        batch_norm=options.tiny,
        pretrained=options.pretrained,
    )
