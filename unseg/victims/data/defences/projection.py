"""`oproj-K`: directions that tell the classes apart linearly are projected out of the pictures.

Reference: P. Sandoval-Segura, V. Singla, J. Geiping, M. Goldblum, T. Goldstein, "What Can We Learn
from Unlearnable Datasets?", NeurIPS 2023 (orthogonal projection). They classify whole pictures;
here a patch of K x K pixels tells the class of its centre.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.utils.seed import torch_generator
from unseg.victims.data.defences.base import Defend, Known, PublishedPicture
from unseg.victims.data.tensor_set import IGNORED_LABEL

NUM_PATCHES = 20_000
"""Patches that the classifier learns from, over all pictures."""
PASSES = 8
"""Each pass averages the projections of all patches that hold a pixel; they converge to the
projection on what no filter sees."""
_ITERATIONS = 60
_DECAY = 1e-4


def fit_projection(known: Known, side: float) -> Defend:
    """The projection for patches of so many pixels.

    Args:
        known: published pictures and labels; the seed draws the patches.
        side: odd number of pixels.
    """
    patches, classes = _draw_patches(known, int(side))
    mean = patches.mean(0)
    weights = linear_classifier(patches - mean, classes)
    # A constant on all classes changes no decision: what counts are their differences.
    if len(weights) < 2:  # a single class: nothing tells it from another
        return lambda picture: picture.image
    directions = torch.linalg.qr((weights - weights.mean(0))[1:].T).Q.T
    filters = directions.reshape(-1, 3, int(side), int(side))
    middle = mean.reshape(3, -1).mean(1).view(3, 1, 1)

    def defend(picture: PublishedPicture) -> Tensor:
        centred = picture.image - middle
        return (project_out(centred, filters) + middle).clamp(0, 1)

    return defend


def linear_classifier(patches: Tensor, classes: Tensor) -> Tensor:
    """Weights (C, D) of a logistic regression on (N, D) float patches, each class weighing alike.

    C is the number of different classes found.
    """
    names = classes.unique()
    target = torch.searchsorted(names, classes)
    balance = 1 / torch.bincount(target).float().clamp(min=1)
    scale = patches.std()
    weights = torch.zeros(len(names), patches.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = (patches / scale) @ weights.T + bias
        loss = F.cross_entropy(logits, target, weight=balance) + _DECAY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def project_out(image: Tensor, filters: Tensor) -> Tensor:
    """A picture without what some filters see in it.

    Args:
        image: (3, H, W) float.
        filters: (R, 3, K, K), orthonormal.
    """
    pad = filters.shape[-1] // 2
    ones = torch.ones_like(filters[:1, :1])
    count = F.conv2d(torch.ones_like(image[None, :1]), ones, padding=pad)
    rest = image[None]
    for _ in range(PASSES):
        seen = F.conv2d(rest, filters, padding=pad)
        rest = rest - F.conv_transpose2d(seen, filters, padding=pad) / count
    return rest[0]


def _draw_patches(known: Known, side: int) -> tuple[Tensor, Tensor]:
    """(N, 3 * side * side) float patches and (N,) their classes, as many of each as can be."""
    patches: list[Tensor] = []
    classes: list[Tensor] = []
    share = max(2, NUM_PATCHES // max(1, known.count))
    for picture in known.some_pictures():
        rng = torch_generator(known.seed, "oproj", picture.key)
        found = picture.label.unique()
        found = found[found != IGNORED_LABEL]
        padded = F.pad(picture.image[None], [side // 2] * 4, mode="replicate")[0]
        for label in found:
            places = (picture.label == label).nonzero()
            chosen = places[torch.randperm(len(places), generator=rng)[: share // len(found)]]
            for y, x in chosen.tolist():
                patches.append(padded[:, y : y + side, x : x + side].flatten())
            classes.append(label.repeat(len(chosen)))
    return torch.stack(patches), torch.cat(classes).long()
