"""Adversarial training: half of each batch is attacked while the victim learns.

The attack is BIM (A. Kurakin, I. Goodfellow, S. Bengio, "Adversarial Examples in the Physical
World", 2016) with the setting of X. Xu, H. Zhao, J. Jia, "Dynamic Divide-and-Conquer Adversarial
Training for Robust Semantic Segmentation" (ICCV 2021): 3 steps of a third of the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

STEPS = 3


def bim(image: Tensor, loss: Callable[[Tensor], Tensor], *, epsilon: float) -> Tensor:
    """Pictures changed so that a loss rises; pictures without a gradient stay as they are.

    Args:
        image: (B, 3, H, W) float in [0, 1]; a network's normalisation belongs into `loss`.
        loss: pictures -> scalar, to which each picture adds its own part. Where it leaves void
            pixels out, they do not steer the attack.
        epsilon: largest change of a value.

    Returns:
        (B, 3, H, W) within `epsilon` of the picture and in [0, 1]; no gradient.
    """
    image = image.detach()
    low, high = (image - epsilon).clamp(min=0), (image + epsilon).clamp(max=1)
    attacked = image
    for _ in range(STEPS):
        attacked = attacked.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(attacked), attacked)
        step = epsilon / STEPS * gradient.sign()
        attacked = torch.minimum(torch.maximum(attacked.detach() + step, low), high)
    return attacked.detach()


@contextmanager
def as_tested(network: nn.Module) -> Iterator[None]:
    """The network as it will be tested: its running statistics are used and not moved."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
