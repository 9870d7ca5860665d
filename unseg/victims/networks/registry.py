"""The registry of victims: which networks are trained on protected pictures, by name.

Every entry has a real size and a tiny one for the CPU, and a width factor, so that "larger" can be
tried without downloads. Each network is built in its own file, where its library is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from unseg.config.evaluate import DENSE_TASKS
from unseg.models.formats.imagenet import load_efficientnet_lite0
from unseg.types import IMAGENET_MEAN, IMAGENET_STD
from unseg.utils.errors import UserError
from unseg.victims.networks.deeplab_v1 import build_deeplab_v1
from unseg.victims.networks.detr import Detr, build_deformable_detr, build_rtdetr
from unseg.victims.networks.mask2former import Mask2Former, build_mask2former
from unseg.victims.networks.mask_rcnn import MaskRCNN, build_mask_rcnn
from unseg.victims.networks.plain_unet import build_plain_unet
from unseg.victims.networks.sam_hq import SamHQ, build_sam_hq
from unseg.victims.networks.segformer import build_segformer
from unseg.victims.networks.segmentation_models import build_segmentation_model
from unseg.victims.networks.victim import NetworkOptions, Statistics, Victim
from unseg.victims.networks.weights import load_weights


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
        statistics: mean and standard deviation of each colour that it is used to.
        load_imagenet: fills its encoder for `weights: imagenet`; None: there is no such file.
    """

    build: Callable[[NetworkOptions], nn.Module]
    title: str
    divisor: int = 32
    has_library_weights: bool = True
    tasks: tuple[str, ...] = DENSE_TASKS
    victim: type[Victim] = Victim
    statistics: Statistics = (IMAGENET_MEAN, IMAGENET_STD)
    load_imagenet: Callable[[nn.Module], None] | None = None


def _unetplusplus(
    title: str, encoder: str, tiny_encoder: str, **tiny_arguments: Any
) -> Architecture:
    build = partial(
        build_segmentation_model,
        name="UnetPlusPlus",
        encoder=encoder,
        tiny_encoder=tiny_encoder,
        tiny_arguments=tiny_arguments,
    )
    return Architecture(build, title)


def _deeplabv3(title: str, encoder: str) -> Architecture:
    build = partial(
        build_segmentation_model, name="DeepLabV3", encoder=encoder, tiny_encoder="tu-resnet10t"
    )
    return Architecture(build, title, 8)


def _efficientnet_lite0(title: str, name: str) -> Architecture:
    """The tiny version has a narrow decoder; the encoder is the same."""
    encoder = "tu-tf_efficientnet_lite0"
    return Architecture(
        partial(build_segmentation_model, name=name, encoder=encoder, tiny_encoder=encoder),
        title,
        has_library_weights=False,
        statistics=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        load_imagenet=load_efficientnet_lite0,
    )


def _mask2former(title: str, backbone: str) -> Architecture:
    return Architecture(
        partial(build_mask2former, backbone=backbone),
        title,
        tasks=(*DENSE_TASKS, "panoptic", "instance", "detection"),
        victim=Mask2Former,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "unet_plain": Architecture(build_plain_unet, "U-Net (plain)", 16, has_library_weights=False),
    "unet": Architecture(
        partial(build_segmentation_model, name="Unet", encoder="resnet34", tiny_encoder="resnet18"),
        "U-Net (ResNet-34)",
    ),
    "unet_efficientnet_lite0": _efficientnet_lite0("U-Net (EfficientNet-Lite0)", "Unet"),
    "fpn_efficientnet_lite0": _efficientnet_lite0("FPN (EfficientNet-Lite0)", "FPN"),
    "unetplusplus_resnet50": _unetplusplus("UNet++ (ResNet-50)", "resnet50", "resnet18"),
    "unetplusplus_densenet169": _unetplusplus(
        "UNet++ (DenseNet-169)", "densenet169", "tu-densenet121", block_config=(2, 2, 2, 2)
    ),
    "unetplusplus_efficientnet_b6": _unetplusplus(
        "UNet++ (EfficientNet-B6)", "efficientnet-b6", "tu-test_efficientnet"
    ),
    "unetplusplus_res2net50": _unetplusplus(
        "UNet++ (Res2Net-50)",
        "tu-res2net50_26w_4s",
        "tu-res2net50_26w_4s",
        layers=[1, 1, 1, 1],
        base_width=8,
    ),
    "unetplusplus_regnetx": _unetplusplus(
        "UNet++ (RegNetX-6.4GF)", "tu-regnetx_064", "tu-regnetx_002"
    ),
    "deeplabv1_vgg16": Architecture(build_deeplab_v1, "DeepLabV1 (VGG16 large-FOV)", 8),
    "deeplabv3_resnet50": _deeplabv3("DeepLabV3 (ResNet-50)", "resnet50"),
    "deeplabv3_resnet101": _deeplabv3("DeepLabV3 (ResNet-101)", "resnet101"),
    "segformer_b0": Architecture(partial(build_segformer, size="b0"), "SegFormer-B0"),
    "segformer_b2": Architecture(partial(build_segformer, size="b2"), "SegFormer-B2"),
    "mask2former_resnet50": _mask2former("Mask2Former (ResNet-50)", "resnet50"),
    "mask2former_swin_t": _mask2former("Mask2Former (Swin-T)", "swin_t"),
    "maskrcnn_resnet50": Architecture(
        build_mask_rcnn,
        "Mask R-CNN (ResNet-50 FPN)",
        tasks=("instance", "detection"),
        victim=MaskRCNN,
    ),
    "deformable_detr_resnet50": Architecture(
        build_deformable_detr,
        "Deformable-DETR two-stage (ResNet-50)",
        tasks=("detection",),
        victim=Detr,
    ),
    "rtdetrv2_resnet50": Architecture(
        build_rtdetr,
        "RT-DETRv2 (ResNet-50)",
        has_library_weights=False,
        tasks=("detection",),
        victim=Detr,
    ),
    "sam_hq_vit_b": Architecture(
        build_sam_hq,
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
        weights: "none" (scratch), "path" (`weights_path`), "library" (the library's own, which it
            downloads) or "imagenet" (an encoder from an installed package).
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
    if weights == "imagenet" and entry.load_imagenet is None:
        known = ", ".join(name for name, other in ARCHITECTURES.items() if other.load_imagenet)
        raise UserError(f"victim {arch} has no installable ImageNet weights; those have: {known}")
    if weights == "path" and weights_path is None:
        raise UserError(f"victim {arch}: weights: path needs weights_path")
    options = NetworkOptions(
        num_classes=num_classes,
        tiny=tiny,
        width=width,
        pretrained=weights == "library",
        encoder=encoder,
        image_size=image_size,
    )
    try:
        network = entry.build(options)
    except ImportError as error:
        raise UserError(
            f"victim {arch} needs the package {error.name!r}; install the extra: "
            "pip install 'unseg[eval]'"
        ) from error
    if tiny:
        _hasten_batch_norm(network)
    if weights == "imagenet" and entry.load_imagenet is not None:
        entry.load_imagenet(network.get_submodule("encoder"))
    victim = entry.victim(
        network, num_classes=num_classes, divisor=entry.divisor, statistics=entry.statistics
    )
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
