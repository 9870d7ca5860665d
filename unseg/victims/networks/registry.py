"""The registry of victims: which networks are trained on protected pictures, by name.

Every entry has a real size and a tiny one for the CPU, and a width factor, so that "larger" can be
tried without downloads. Libraries are imported where a network is built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unseg.config.evaluate import DENSE_TASKS
from unseg.utils.errors import UserError
from unseg.victims.networks.detr import Detr, build_deformable_detr, build_rtdetr
from unseg.victims.networks.mask2former import Mask2Former, build_mask2former
from unseg.victims.networks.mask_rcnn import MaskRCNN, build_maskrcnn
from unseg.victims.networks.plain_unet import PlainUNet
from unseg.victims.networks.sam_hq import SamHQ, build_sam_hq
from unseg.victims.networks.victim import DeepLabV1, Victim
from unseg.victims.networks.weights import load_weights


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a builder is asked for.

    Attributes:
        num_classes: number of classes.
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


@dataclass(frozen=True)
class Architecture:
    """One victim.

    Attributes:
        build: makes the network.
        title: what tables call it.
        divisor: input sides are padded to multiples of it.
        has_library_weights: whether `weights: library` means something.
        tasks: what it can be trained for.
        victim: its calling convention.
    """

    build: Callable[[Request], nn.Module]
    title: str
    divisor: int = 32
    has_library_weights: bool = True
    tasks: tuple[str, ...] = DENSE_TASKS
    victim: type[Victim] = Victim


def _scaled(channels: tuple[int, ...], width: float, *, multiple: int = 1) -> tuple[int, ...]:
    return tuple(max(multiple, round(c * width / multiple) * multiple) for c in channels)


def _plain_unet(request: Request) -> nn.Module:
    """Width scales every layer."""
    channels = (8, 16, 32) if request.tiny else (8, 16, 32, 64, 128)
    return PlainUNet(request.num_classes, _scaled(channels, request.width))


def _smp_decoder(request: Request) -> tuple[int, ...]:
    channels = (64, 48, 32, 24, 16) if request.tiny else (256, 128, 64, 32, 16)
    return _scaled(channels, request.width, multiple=4)


def _smp(
    name: str, *, encoder: str, tiny_encoder: str, tiny_arguments: dict[str, Any] | None = None
) -> Callable[[Request], nn.Module]:
    """A network of segmentation_models_pytorch. Width scales the decoder, `encoder` the rest."""

    def build(request: Request) -> nn.Module:
        import segmentation_models_pytorch as smp

        default = tiny_encoder if request.tiny else encoder
        arguments: dict[str, Any] = {
            "encoder_name": request.encoder or default,
            "encoder_weights": "imagenet" if request.pretrained else None,
            "classes": request.num_classes,
        }
        if request.tiny and request.encoder is None:
            arguments |= tiny_arguments or {}
        if name == "DeepLabV3":
            channels = (32,) if request.tiny else (256,)
            arguments["decoder_channels"] = _scaled(channels, request.width, multiple=4)[0]
            # At the usual rates a small feature map sees only the centre of each kernel.
            arguments["decoder_atrous_rates"] = (2, 4, 6) if request.tiny else (12, 24, 36)
        else:
            arguments["decoder_channels"] = _smp_decoder(request)
        return getattr(smp, name)(**arguments)

    return build


def _deeplabv1(request: Request) -> nn.Module:
    """Width scales every layer; the tiny version has batch normalisation."""
    width = request.width / 8 if request.tiny else request.width
    return DeepLabV1(
        request.num_classes, width=width, batch_norm=request.tiny, pretrained=request.pretrained
    )


SEGFORMERS = {
    "tiny": ((1, 1, 1, 1), (16, 32, 48, 64), 64),
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
}
"""Blocks of each stage, width of each stage, width of the decoder."""


def _segformer(size: str) -> Callable[[Request], nn.Module]:
    """SegFormer of transformers. Width scales every stage and the decoder."""

    def build(request: Request) -> nn.Module:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        if request.pretrained:
            return SegformerForSemanticSegmentation.from_pretrained(
                request.encoder or f"nvidia/mit-{size}", num_labels=request.num_classes
            )
        depths, channels, decoder = SEGFORMERS["tiny" if request.tiny else size]
        heads = (1, 2, 4, 8) if request.tiny else (1, 2, 5, 8)
        sizes = [
            _scaled((c,), request.width, multiple=h)[0]
            for c, h in zip(channels, heads, strict=True)
        ]
        arguments: dict[str, Any] = {
            "depths": list(depths),
            "hidden_sizes": sizes,
            "num_attention_heads": list(heads),
            "decoder_hidden_size": _scaled((decoder,), request.width)[0],
            "num_labels": request.num_classes,
        }
        config = SegformerConfig(**arguments)
        return SegformerForSemanticSegmentation(config)

    return build


def _unetplusplus(
    encoder: str, tiny_encoder: str, **tiny_arguments: Any
) -> Callable[[Request], nn.Module]:
    return _smp(
        "UnetPlusPlus",
        encoder=encoder,
        tiny_encoder=tiny_encoder,
        tiny_arguments=tiny_arguments,
    )


def _mask2former(backbone: str, title: str) -> Architecture:
    def build(request: Request) -> nn.Module:
        return build_mask2former(
            backbone,
            num_classes=request.num_classes,
            tiny=request.tiny,
            width=request.width,
            pretrained=request.pretrained,
        )

    tasks = (*DENSE_TASKS, "panoptic", "instance", "detection")
    return Architecture(build, title, tasks=tasks, victim=Mask2Former)


def _maskrcnn(request: Request) -> nn.Module:
    return build_maskrcnn(
        num_classes=request.num_classes,
        tiny=request.tiny,
        width=request.width,
        pretrained=request.pretrained,
    )


def _deformable_detr(request: Request) -> nn.Module:
    return build_deformable_detr(
        num_classes=request.num_classes,
        tiny=request.tiny,
        width=request.width,
        pretrained=request.pretrained,
    )


def _rtdetr(request: Request) -> nn.Module:
    return build_rtdetr(num_classes=request.num_classes, tiny=request.tiny, width=request.width)


def _sam_hq(request: Request) -> nn.Module:
    return build_sam_hq(tiny=request.tiny, width=request.width, image_size=request.image_size)


ARCHITECTURES: dict[str, Architecture] = {
    "unet_plain": Architecture(_plain_unet, "U-Net (plain)", 16, has_library_weights=False),
    "unet": Architecture(
        _smp("Unet", encoder="resnet34", tiny_encoder="resnet18"), "U-Net (ResNet-34)"
    ),
    "unetplusplus_resnet50": Architecture(
        _unetplusplus("resnet50", "resnet18"), "UNet++ (ResNet-50)"
    ),
    "unetplusplus_densenet169": Architecture(
        _unetplusplus("densenet169", "tu-densenet121", block_config=(2, 2, 2, 2)),
        "UNet++ (DenseNet-169)",
    ),
    "unetplusplus_efficientnet_b6": Architecture(
        _unetplusplus("efficientnet-b6", "tu-test_efficientnet"), "UNet++ (EfficientNet-B6)"
    ),
    "unetplusplus_res2net50": Architecture(
        _unetplusplus(
            "tu-res2net50_26w_4s", "tu-res2net50_26w_4s", layers=[1, 1, 1, 1], base_width=8
        ),
        "UNet++ (Res2Net-50)",
    ),
    "unetplusplus_regnetx": Architecture(
        _unetplusplus("tu-regnetx_064", "tu-regnetx_002"), "UNet++ (RegNetX-6.4GF)"
    ),
    "deeplabv1_vgg16": Architecture(_deeplabv1, "DeepLabV1 (VGG16 large-FOV)", 8),
    "deeplabv3_resnet50": Architecture(
        _smp("DeepLabV3", encoder="resnet50", tiny_encoder="tu-resnet10t"),
        "DeepLabV3 (ResNet-50)",
        8,
    ),
    "deeplabv3_resnet101": Architecture(
        _smp("DeepLabV3", encoder="resnet101", tiny_encoder="tu-resnet10t"),
        "DeepLabV3 (ResNet-101)",
        8,
    ),
    "segformer_b0": Architecture(_segformer("b0"), "SegFormer-B0"),
    "segformer_b2": Architecture(_segformer("b2"), "SegFormer-B2"),
    "mask2former_resnet50": _mask2former("resnet50", "Mask2Former (ResNet-50)"),
    "mask2former_swin_t": _mask2former("swin_t", "Mask2Former (Swin-T)"),
    "maskrcnn_resnet50": Architecture(
        _maskrcnn, "Mask R-CNN (ResNet-50 FPN)", tasks=("instance", "detection"), victim=MaskRCNN
    ),
    "deformable_detr_resnet50": Architecture(
        _deformable_detr,
        "Deformable-DETR two-stage (ResNet-50)",
        tasks=("detection",),
        victim=Detr,
    ),
    "rtdetrv2_resnet50": Architecture(
        _rtdetr,
        "RT-DETRv2 (ResNet-50)",
        has_library_weights=False,
        tasks=("detection",),
        victim=Detr,
    ),
    "sam_hq_vit_b": Architecture(
        _sam_hq,
        "SAM-HQ (ViT-B)",
        has_library_weights=False,
        tasks=("interactive",),
        victim=SamHQ,
    ),
}
"""`arch` of a victim's configuration -> how it is built."""


def build_victim(
    arch: str,
    *,
    num_classes: int,
    tiny: bool = False,
    width: float = 1.0,
    encoder: str | None = None,
    weights: str = "none",
    weights_path: str | Path | None = None,
    image_size: int = 1024,
    train_only: Sequence[str] = (),
) -> Victim:
    """A victim, initialised.

    Args:
        arch: a name of `ARCHITECTURES`.
        num_classes: channels of the logits.
        tiny: the small version for the CPU.
        width: factor on the channels.
        encoder: another encoder of the same library, by its name there.
        weights: "none" (scratch), "path" (`weights_path`) or "library" (the library's own).
        weights_path: .pt, .pth or .safetensors file of a whole victim or of its encoder, or a
            folder with a model of transformers.
        image_size: side of the square frame, for networks that are built for one.
        train_only: the other parameters are frozen: those whose names hold none of these words.

    Raises:
        UserError: an unknown name, or weights that do not fit.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"unknown victim {arch!r}; known are {', '.join(ARCHITECTURES)}")
    entry = ARCHITECTURES[arch]
    if weights == "library" and not entry.has_library_weights:
        raise UserError(f"victim {arch} has no library weights; set weights: none or path")
    if weights == "path" and weights_path is None:
        raise UserError(f"victim {arch}: weights: path needs weights_path")
    request = Request(
        num_classes=num_classes,
        tiny=tiny,
        width=width,
        pretrained=weights == "library",
        encoder=encoder,
        image_size=image_size,
    )
    try:
        network = entry.build(request)
    except ImportError as error:
        raise UserError(
            f"victim {arch} needs the package {error.name!r}; install the extra: "
            "pip install 'unseg[eval]'"
        ) from error
    if tiny:
        _hasten_batch_norm(network)
    victim = entry.victim(network, num_classes=num_classes, divisor=entry.divisor)
    if weights == "path" and weights_path is not None:
        load_weights(victim, weights_path)
    if train_only:
        _freeze_others(victim, train_only)
    return victim


def _freeze_others(victim: Victim, words: Sequence[str]) -> None:
    parameters = dict(victim.named_parameters())
    for word in words:
        if not any(word in name for name in parameters):
            raise UserError(f"train_only: no parameter of the victim has {word!r} in its name")
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(word in name for word in words))


def _hasten_batch_norm(network: nn.Module) -> None:
    """Let running statistics follow a short training; EfficientNets average over 100 steps."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = max(module.momentum or 0.1, 0.1)
