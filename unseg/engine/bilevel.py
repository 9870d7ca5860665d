"""The bilevel min-min game: who learns when, and one step of either player.

See docs/METHOD.md, "4. Training".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.engine.random_sizes import RandomSizes
from unseg.losses import MaskLosses, choose_points, mask_losses
from unseg.models import Generator, Surrogate
from unseg.noise import Enlarge, compose
from unseg.types import Batch, Phase
from unseg.utils.seed import torch_generator

Degrade = Callable[[Tensor, Sequence[torch.Generator]], Tensor]


@dataclass(frozen=True)
class BilevelSchedule:
    """Who learns when: the first `surrogate` of each `period` train the surrogate.

    The paper's game is `unit="epochs", period=4, surrogate=1`: epochs 0, 4, 8, ... are the
    surrogate's.

    Attributes:
        unit: what is counted, epochs or optimiser steps of the whole run, both from 0.
        period: length of one round.
        surrogate: how many of it are the surrogate's.
    """

    unit: Literal["epochs", "steps"] = "epochs"
    period: int = 4
    surrogate: int = 1

    def phase(self, *, epoch: int, step: int) -> Phase:
        """Who learns in this step of this epoch."""
        position = (epoch if self.unit == "epochs" else step) % self.period
        return Phase.SURROGATE if position < self.surrogate else Phase.GENERATOR


@dataclass(frozen=True)
class RateSchedule:
    """Learning rate as a pure function of where the run is: nothing to step, nothing to restore.

    Attributes:
        unit: unit of `drop_at`, counted over the whole run, whoever learns.
        drop_at: from each of these on the rate is multiplied by `drop_factor` once more.
        drop_factor: the multiplier.
    """

    unit: Literal["epochs", "steps"] = "epochs"
    drop_at: tuple[int, ...] = (20,)
    drop_factor: float = 0.1

    def factor(self, *, epoch: int, step: int) -> float:
        """Multiplier of the initial rate in this step."""
        position = epoch if self.unit == "epochs" else step
        return self.drop_factor ** sum(position >= at for at in self.drop_at)


@dataclass(frozen=True)
class Game:
    """What the two players agree on.

    Attributes:
        epsilon: training budget inside the object, in grey levels (paper's EG: 1, for 8 later).
        epsilon_bg: training budget outside.
        label_modification: the generator's target is all ones (paper's LM), else the true mask.
        num_points: sampled points a mask.
        oversample: candidates per point.
        uncertain_share: share of points chosen by uncertainty.
        bce_weight: weight of the cross-entropy.
        dice_weight: weight of the dice loss.
        seed: of the run; a sample's points derive from it, the epoch and the sample's index.
        degrade: what happens to the protected image before the surrogate sees it, or None.
        sizes: how its size and place then vary, with mask and prompts, or None.
        autocast: run the networks in bfloat16.
    """

    epsilon: float = 1.0
    epsilon_bg: float = 0.25
    label_modification: bool = True
    num_points: int = 12_544
    oversample: float = 3.0
    uncertain_share: float = 0.75
    bce_weight: float = 1.0
    dice_weight: float = 1.0
    seed: int = 42
    degrade: Degrade | None = None
    sizes: RandomSizes | None = None
    autocast: bool = False

    def generators(self, epoch: int, batch: Batch, purpose: str) -> list[torch.Generator]:
        """One random source a sample, independent of ranks, workers and neighbours."""
        return [torch_generator(self.seed, epoch, int(i), purpose) for i in batch.indices]


def modified_label(mask: Tensor) -> Tensor:
    """Label modification (LM): the generator's target is all ones, padding included.

    Without LM (`loss.label_modification=false`, an ablation) it is the true mask.

    Args:
        mask: (B, 1, s, s) in [0, 1].

    Returns:
        (B, 1, s, s) of ones.
    """
    return torch.ones_like(mask)


def generator_step(
    generator: Generator, surrogate: Surrogate, batch: Batch, *, game: Game, epoch: int
) -> MaskLosses:
    """Losses that teach the generator: noise with which the surrogate already succeeds.

    The surrogate is frozen, but gradients run through it to the noise.
    """
    with frozen(surrogate):
        with mixed_precision(batch.image, game):
            noise = generator(batch.image, batch.generator_prompts)
        logits, mask = surrogate_logits(
            surrogate,
            batch,
            noise.to(batch.image.dtype),
            game=game,
            epoch=epoch,
            enlarge=generator.noise_carrier.enlarge,
        )
    target = modified_label(mask) if game.label_modification else mask
    return _point_losses(logits, target, batch, game=game, epoch=epoch)


def surrogate_step(
    generator: Generator, surrogate: Surrogate, batch: Batch, *, game: Game, epoch: int
) -> MaskLosses:
    """Losses that teach the surrogate: the true mask from the protected image.

    The noise is a constant of this step: the generator runs without a graph.
    """
    with torch.no_grad(), mixed_precision(batch.image, game):
        noise = generator(batch.image, batch.generator_prompts)
    logits, mask = surrogate_logits(
        surrogate, batch, noise.to(batch.image.dtype), game=game, epoch=epoch,
        enlarge=generator.noise_carrier.enlarge,
    )  # fmt: skip
    return _point_losses(logits, mask, batch, game=game, epoch=epoch)


def clean_step(surrogate: Surrogate, batch: Batch, *, game: Game, epoch: int) -> MaskLosses:
    """Losses that teach a segmenter alone: the surrogate's step on clean pictures.

    DEVIATION: not in the paper, whose frozen part is Segment Anything's (`unseg pretrain-sam`).
    """
    image, mask = (shrink(x, surrogate.image_size) for x in (batch.image, batch.mask))
    with mixed_precision(image, game):
        logits = surrogate(image, batch.surrogate_prompts)
    return _point_losses(logits.to(image.dtype), mask, batch, game=game, epoch=epoch)


STEPS = {Phase.GENERATOR: generator_step, Phase.SURROGATE: surrogate_step}


def accumulate_gradients(
    phase: Phase,
    generator: Generator | None,
    surrogate: Surrogate,
    batch: Batch,
    *,
    game: Game,
    epoch: int,
    num_masks: Tensor,
    micro_batch_size: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, MaskLosses]]:
    """Add the gradients of one step, a micro-batch at a time, and yield the losses of each.

    The loss is the mean over all masks of the global batch, so that gradients simply add up over
    micro-batches and ranks, however unevenly the masks are spread.

    Args:
        phase: who learns.
        generator: on the device where the work is done, like the surrogate; None: the surrogate
            learns from clean pictures.
        surrogate: see above.
        batch: this rank's share of the global batch, on any device.
        game: losses and budget.
        epoch: for random draws.
        num_masks: () number of masks of the global batch, over all ranks.
        micro_batch_size: images of one forward pass, or None for all.

    Yields:
        The part's share of the loss (), the weighted loss of each mask (B,), and its two terms.
    """
    for part in micro_batches(batch, micro_batch_size):
        part = part.to(num_masks.device)
        if generator is None:
            losses = clean_step(surrogate, part, game=game, epoch=epoch)
        else:
            losses = STEPS[phase](generator, surrogate, part, game=game, epoch=epoch)
        total = losses.total(bce_weight=game.bce_weight, dice_weight=game.dice_weight)
        loss = total.sum() / num_masks
        loss.backward()
        yield loss, total, losses


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Consecutive parts of at most `size` samples; none of an empty batch."""
    if size is None or len(batch) <= size:
        if len(batch):
            yield batch
        return
    for first in range(0, len(batch), size):
        rows = slice(first, first + size)
        yield Batch(
            image=batch.image[rows],
            mask=batch.mask[rows],
            generator_prompts=batch.generator_prompts.select(rows),
            surrogate_prompts=batch.surrogate_prompts.select(rows),
            names=batch.names[rows],
            indices=batch.indices[rows],
        )


def surrogate_logits(
    surrogate: Surrogate,
    batch: Batch,
    noise: Tensor,
    *,
    game: Game,
    epoch: int,
    enlarge: Enlarge = "bilinear",
) -> tuple[Tensor, Tensor]:
    """The surrogate's answer to the protected batch, in its own frame of side s.

    Args:
        surrogate: reads (B, 3, s, s).
        batch: in the generator's frame of side S, a whole multiple of s.
        noise: (B, 3, n, n) in [-1, 1] on the generator's grid.
        game: budget, degradation and sizes.
        epoch: for their draws.
        enlarge: how the carrier's cells become pixels.

    Returns:
        logits (B, 1, h, w), in the precision of the image, and the soft mask (B, 1, s, s) of the
        picture that the surrogate saw.
    """
    side = surrogate.image_size
    image, mask = shrink(batch.image, side), shrink(batch.mask, side)
    # A codec meets pictures at the size at which they are published, before a trainer's reduction.
    published = image if game.degrade is None else batch.image
    protected = compose(
        published,
        noise,
        region=hard_region(batch.mask, published.shape[-1]),
        epsilon=game.epsilon,
        epsilon_bg=game.epsilon_bg,
        enlarge=enlarge,
    )
    if game.degrade is not None:
        protected = game.degrade(protected, game.generators(epoch, batch, "degrade"))
        protected = shrink(protected, side)
    prompts = batch.surrogate_prompts
    if game.sizes is not None:
        placement = game.sizes(mask, prompts, game.generators(epoch, batch, "sizes"))
        protected, mask = placement.move(protected), placement.move(mask)
        prompts = placement.move_prompts(prompts, mask)
    with mixed_precision(image, game):
        logits = surrogate(protected, prompts)
    return logits.to(image.dtype), mask


def mixed_precision(image: Tensor, game: Game) -> torch.autocast:
    """The networks' precision on the device of `image`; weights and losses stay float32."""
    return torch.autocast(image.device.type, torch.bfloat16, enabled=game.autocast)


def shrink(image: Tensor, side: int) -> Tensor:
    """(B, C, S, S) -> (B, C, side, side) by the mean of whole blocks (2x2 in the paper)."""
    factor = image.shape[-1] // side
    if factor * side != image.shape[-1]:
        raise ValueError(
            f"side {image.shape[-1]} is no whole multiple of {side}; "
            "let surrogate.image_size divide generator.image_size"
        )
    return F.avg_pool2d(image, factor) if factor > 1 else image


def hard_region(mask: Tensor, side: int) -> Tensor:
    """Protected region of a soft mask at another size: bilinear, rounded (0.5 becomes 0)."""
    if mask.shape[-1] != side:
        mask = F.interpolate(mask, (side, side), mode="bilinear", align_corners=False)
    return torch.round(mask)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Build no gradients for a module's weights inside the block, but let them flow through it."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _point_losses(
    logits: Tensor, target: Tensor, batch: Batch, *, game: Game, epoch: int
) -> MaskLosses:
    points = choose_points(
        logits,
        num_points=game.num_points,
        oversample=game.oversample,
        uncertain_share=game.uncertain_share,
        generators=game.generators(epoch, batch, "points"),
    )
    return mask_losses(logits, target, points)
