"""Tiny players and batches for tests of the engine; no files, no loader."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from unseg.engine.bilevel import BilevelSchedule, Game, RateSchedule
from unseg.engine.checkpoint import CheckpointFolder
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import build_adam
from unseg.engine.trainer import Pace, Trainer
from unseg.models import Generator, Surrogate, build_generator, build_surrogate
from unseg.types import Batch, Phase, Prompts

SIDE = 64


def players(seed: int = 0, **generator_options) -> tuple[Generator, Surrogate]:
    """Tiny generator at 64 px and surrogate at 32 px."""
    torch.manual_seed(seed)
    return build_generator("tiny", SIDE, **generator_options), build_surrogate("tiny", SIDE // 2)


def batch(size: int, *, first: int = 0) -> Batch:
    """Samples `first`, `first + 1`, ...: each is a function of its index alone.

    Prompt kinds differ from sample to sample, as in training.
    """
    rows = [_sample(first + i) for i in range(size)]
    images, masks, generator_prompts, surrogate_prompts = (
        zip(*rows, strict=True) if rows else ((), (), (), ())
    )
    ones = [1] * size
    return Batch(
        image=torch.stack(images) if rows else torch.zeros(0, 3, SIDE, SIDE),
        mask=torch.stack(masks) if rows else torch.zeros(0, 1, SIDE, SIDE),
        generator_prompts=Prompts.cat(generator_prompts, ones) if rows else Prompts(),
        surrogate_prompts=Prompts.cat(surrogate_prompts, ones) if rows else Prompts(),
        names=tuple(f"sample_{first + i}" for i in range(size)),
        indices=torch.arange(first, first + size),
    )


def _sample(index: int) -> tuple[torch.Tensor, torch.Tensor, Prompts, Prompts]:
    source = torch.Generator().manual_seed(1000 + index)
    image = torch.rand(3, SIDE, SIDE, generator=source)
    left, top = torch.randint(2, 24, (2,), generator=source).tolist()
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, top : top + 28, left : left + 28] = 1
    image = torch.where(mask > 0, 0.5 * image, image)
    box = torch.tensor([[left, top, left + 27, top + 27]], dtype=torch.float32)
    points = torch.tensor([[[left + 3.0, top + 5.0], [left + 9.0, top + 9.0]]])
    half_mask = 255 * (mask[:, ::4, ::4] > 0).float()
    kinds = (
        (Prompts(boxes=box), Prompts(point_coords=points / 2)),
        (Prompts(point_coords=points), Prompts(boxes=torch.floor(box / 2))),
        (Prompts(boxes=box, mask_inputs=_at(mask, 4 * SIDE // 8)), Prompts()),
    )
    for_generator, for_surrogate = kinds[index % 3]
    if index % 3 == 2:
        for_surrogate = Prompts(mask_inputs=half_mask[None])
    return image, mask, for_generator, for_surrogate


def _at(mask: torch.Tensor, side: int) -> torch.Tensor:
    step = mask.shape[-1] // side
    return 255 * mask[None, :, ::step, ::step]


class Loader:
    """Epochs of in-memory samples, in a fixed order that differs between epochs."""

    def __init__(
        self, num_samples: int, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_samples, self.batch_size = num_samples, batch_size
        self.rank, self.world_size = rank, world_size
        self.is_float64 = False

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number in range(start, len(self)):
            first = number * self.batch_size
            size = min(self.batch_size, self.num_samples - first)
            low, high = (size * (self.rank + i) // self.world_size for i in (0, 1))
            data = batch(high - low, first=(100 * epoch) + first + low)
            yield batch_in_float64(data) if self.is_float64 else data


def trainer(
    run_dir: Path,
    *,
    steps: int = 6,
    loader: Loader | None = None,
    game: Game | None = None,
    schedule: BilevelSchedule | None = None,
    seed: int = 0,
    keep_last: int = 2,
    is_alone: bool = False,
    **pace,
) -> Trainer:
    """A trainer of tiny players, or of a lone surrogate; validation reports the step as its gap."""
    generator, surrogate = players(seed)
    optimizers = {
        Phase.GENERATOR: build_adam(generator.trainable_parameters().values(), lr=1e-3),
        Phase.SURROGATE: build_adam(surrogate.parameters(), lr=1e-3),
    }
    if is_alone:
        optimizers.pop(Phase.GENERATOR)
    return Trainer(
        generator=None if is_alone else generator,
        surrogate=surrogate,
        optimizers=optimizers,
        loader=loader or Loader(6, 3),
        game=game or Game(num_points=64),
        schedule=schedule or BilevelSchedule("steps", period=2, surrogate=1),
        rate=RateSchedule("steps", drop_at=(4,)),
        pace=Pace(steps=steps, **{"log_every": 2, **pace}),
        checkpoints=CheckpointFolder(run_dir / "checkpoints", keep_last=keep_last),
        metrics=MetricLog(run_dir, tensorboard=False),
        validate=lambda step: {"gap": float(step)},
        identity={"config": {"name": "test"}, "provenance": {}},
    )


def in_float64(run: Trainer) -> Trainer:
    """The same trainer with both players in float64: sums in another order agree to 1e-12."""
    run.loader.is_float64 = True
    for player in run.players.values():
        player.double()
        # Positions and mask prompts enter in float32, whatever the rest of the model is in.
        player.prompt_encoder.pe_layer.float()
        player.prompt_encoder.mask_downscaling.register_forward_pre_hook(
            lambda module, inputs: (inputs[0].double(),)
        )
    return run


def batch_in_float64(data: Batch) -> Batch:
    """The same samples with images and masks in float64."""
    return dataclasses.replace(data, image=data.image.double(), mask=data.mask.double())


def gradients_of_step(run: Trainer, phase: Phase, data: Batch) -> dict[int, torch.Tensor]:
    """What the optimiser would have used, by parameter position; the weights stay."""
    optimizer = run.optimizers[phase]
    taken: dict[int, torch.Tensor] = {}

    def keep() -> None:
        parameters = optimizer.param_groups[0]["params"]
        taken.update({i: p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None})

    optimizer.step = keep
    run.train_step(phase, data)
    return taken


def relative_difference(left: dict[int, torch.Tensor], right: dict[int, torch.Tensor]) -> float:
    """Largest difference of any gradient entry, relative to its tensor's largest entry.

    Keys' biases do not matter to a softmax, so their gradients are rounding errors alone; tensors
    below a billionth of the largest gradient are compared to that instead.
    """
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    largest = max(g.abs().max().item() for g in left.values())
    return max(
        (right[i] - g).abs().max().item() / max(g.abs().max().item(), 1e-9 * largest)
        for i, g in left.items()
    )
