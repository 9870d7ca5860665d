"""U-Net, UNet++, FPN and DeepLabV3 of segmentation_models_pytorch as victims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from unseg.victims.networks.victim import NetworkOptions


def build_segmentation_model(
    options: NetworkOptions,
    *,
    name: str,
    encoder: str,
    tiny_encoder: str,
    tiny_arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network of the library, with random weights or with an ImageNet encoder (download).

    Args:
        options: width scales the decoder; `encoder` takes another encoder.
        name: of the network's class in the library.
        encoder: of the real size.
        tiny_encoder: of the tiny size.
        tiny_arguments: further arguments of the tiny size with that encoder.
    """
    import segmentation_models_pytorch as smp

    default = tiny_encoder if options.tiny else encoder
    arguments: dict[str, Any] = {
        "encoder_name": options.encoder or default,
        "encoder_weights": "imagenet" if options.pretrained else None,
        "classes": options.num_classes,
    }
    if options.tiny and options.encoder is None:
        arguments |= tiny_arguments or {}
    if name == "DeepLabV3":
        arguments["decoder_channels"] = options.scaled(32 if options.tiny else 256, multiple=4)
        # At the usual rates a small feature map sees only the centre of each kernel.
        arguments["decoder_atrous_rates"] = (2, 4, 6) if options.tiny else (12, 24, 36)
    elif name == "FPN":
        arguments["decoder_pyramid_channels"] = options.scaled(64 if options.tiny else 256)
        arguments["decoder_segmentation_channels"] = options.scaled(
            32 if options.tiny else 128, multiple=32
        )
    else:
        channels = (64, 48, 32, 24, 16) if options.tiny else (256, 128, 64, 32, 16)
        arguments["decoder_channels"] = tuple(options.scaled(c, multiple=4) for c in channels)
    return getattr(smp, name)(**arguments)
