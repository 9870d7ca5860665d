"""Mask R-CNN (He et al., ICCV 2017) of torchvision as a victim.

It stands in for RSPrompter, of which no package exists, and is reported under its own name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unseg.victims.data.segments import Found, Frame, Target
from unseg.victims.networks.victim import NetworkOptions, ObjectVictim


def build_mask_rcnn(options: NetworkOptions) -> nn.Module:
    """The network with random weights, or with an ImageNet backbone (download).

    Pictures come normalised, and at the size that they are to have. Width scales the channels of
    the heads' hidden layers (and of the tiny backbone, which has three layers and one level of
    anchors); classes are counted without the background.
    """
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops.misc import FrozenBatchNorm2d

    if not options.tiny:
        hidden = max(8, round(1024 * options.width))
        # As `maskrcnn_resnet50_fpn`, which takes no heads for another number of classes.
        pyramid = resnet_fpn_backbone(
            backbone_name="resnet50",
            weights="IMAGENET1K_V1" if options.pretrained else None,
            norm_layer=FrozenBatchNorm2d if options.pretrained else nn.BatchNorm2d,
            trainable_layers=3 if options.pretrained else 5,
        )
        network = MaskRCNN(
            pyramid,
            num_classes=None,
            box_head=TwoMLPHead(pyramid.out_channels * 49, hidden),
            box_predictor=FastRCNNPredictor(hidden, options.num_classes + 1),
            mask_predictor=MaskRCNNPredictor(256, 256, options.num_classes + 1),
        )
        return _unscaled(network)
    channels = max(8, round(32 * options.width))
    network = MaskRCNN(
        _TinyBackbone(channels),
        num_classes=None,
        rpn_anchor_generator=AnchorGenerator(((12, 24, 40),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=60,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_head=TwoMLPHead(channels * 49, 64),
        box_predictor=FastRCNNPredictor(64, options.num_classes + 1),
        mask_head=MaskRCNNHeads(channels, (channels, channels), 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, options.num_classes + 1),
    )
    return _unscaled(network)


def _unscaled(network: nn.Module) -> nn.Module:
    """The network without its own normalisation, and without its resizing to 800 pixels."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class Unscaled(GeneralizedRCNNTransform):
        # torchvision's `_skip_resize` skips it in training alone.
        def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
            return image, target

    network.transform = Unscaled(1, 1, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    return network


class _TinyBackbone(nn.Sequential):
    """Three strided convolutions; torchvision asks a backbone for its `out_channels`."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for source in (3, channels, channels):
            layers += [
                nn.Conv2d(source, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)
        self.out_channels = channels


class MaskRCNN(ObjectVictim):
    """Two stages: proposals, then class, box and a mask of 28 x 28 for each."""

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Sum of torchvision's five losses."""
        labels = [
            # Class 0 is the background.
            {"boxes": t.boxes, "labels": t.categories + 1, "masks": t.masks.to(torch.uint8)}
            for t in targets
        ]
        losses = self.network(list(self.prepare(images).contiguous()), labels)
        return torch.stack(list(losses.values())).sum()

    def find(
        self,
        images: Tensor,
        frames: Sequence[Frame],
        *,
        task: str,
        things: frozenset[int] = frozenset(),
        boxes: Sequence[Tensor] | None = None,
    ) -> list[Found]:
        """The surest objects; masks are pasted at the size at which they are scored, once."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        del things, boxes
        network: Any = self.network
        batch, _ = network.transform(list(self.prepare(images).contiguous()))
        features = network.backbone(batch.tensors)
        if isinstance(features, Tensor):
            features = {"0": features}
        proposals, _ = network.rpn(batch, features)
        detections, _ = network.roi_heads(features, proposals, batch.image_sizes)
        found = []
        for detection, frame in zip(detections, frames, strict=True):
            scaled = frame.scale_boxes(detection["boxes"])
            masks = None
            if task != "detection":
                masks = paste_masks_in_image(detection["masks"], scaled, frame.size)[:, 0] > 0.5
            found.append(Found(detection["labels"] - 1, detection["scores"], scaled, masks))
        return found
