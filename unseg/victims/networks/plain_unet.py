"""A plain U-Net, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.victims.networks.victim import NetworkOptions


def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def _double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*_conv(in_channels, out_channels), *_conv(out_channels, out_channels))


class PlainUNet(nn.Module):
    """U-Net of plain double convolutions (Ronneberger et al., 2015), trained from scratch.

    It works at full size throughout. A first layer that halves the size would cost half the time,
    but hardly sees fine noise: trained on random signs it scored as on clean pictures.

    Args:
        num_classes: channels of the logits.
        channels: width of each level, finest first; one 2x2 pooling lies between two levels.
    """

    def __init__(self, num_classes: int, channels: Sequence[int] = (8, 16, 32, 64, 128)) -> None:
        super().__init__()
        sources = [3, *channels[:-1]]
        self.down = nn.ModuleList(
            _double_conv(a, b) for a, b in zip(sources, channels, strict=True)
        )
        # The coarser level is narrowed before it is enlarged: most of the time goes to full size.
        self.narrow = nn.ModuleList(
            nn.Conv2d(b, a, 1) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        self.up = nn.ModuleList(_double_conv(2 * a, a) for a in channels[:-1])
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C, H, W); H and W are multiples of 2 ** (levels - 1)."""
        skips: list[Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for narrow, block in zip(reversed(self.narrow), reversed(self.up), strict=True):
            skip = skips.pop()
            x = F.interpolate(narrow(x), skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], 1))
        return self.head(x)


def build_plain_unet(options: NetworkOptions) -> nn.Module:
    """Width scales every layer."""
    channels = (8, 16, 32) if options.tiny else (8, 16, 32, 64, 128)
    return PlainUNet(options.num_classes, [options.scaled(c) for c in channels])
