"""Benchmark of training: loader and optimiser steps together."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain_data, plain_models
from benchmarks.data import EPOCH, SEED, train_loader, training_sides
from benchmarks.measure import Row, Settings, compare
from benchmarks.models import seeded_generator, seeded_surrogate
from benchmarks.pictures import TRAINING_SIZES, write_set
from unseg.data.hqseg import open_folders
from unseg.engine.bilevel import STEPS, BilevelSchedule, Game, frozen
from unseg.engine.players import build_adam
from unseg.losses import choose_points, mask_losses
from unseg.models import Generator, Surrogate
from unseg.noise import compose
from unseg.types import Batch, Phase
from unseg.utils.seed import numpy_generator, torch_generator

CPU_BATCH, CUDA_BATCH = 4, 32
LOSS_BOUND = {False: 1e-3, True: 0.1}


def train(settings: Settings) -> Iterator[Row]:
    """Steps of both players from files to updated weights; the losses of all steps are compared."""
    sides = training_sides(settings)
    is_cuda = settings.device.type == "cuda"
    batch_size = CUDA_BATCH if is_cuda else CPU_BATCH
    start = seeded_generator(settings).train(), seeded_surrogate(settings)
    schedule = BilevelSchedule(unit="steps", period=4, surrogate=1)
    waits: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = [TRAINING_SIZES[i % len(TRAINING_SIZES)] for i in range(settings.num_images)]
        names = write_set(root, tuple(sizes))
        dataset = open_folders("benchmark", root / "images", root / "masks")
        loader = train_loader(
            dataset, sides, batch_size=batch_size, device=settings.device,
            workers=8 if is_cuda else 0,
        )  # fmt: skip

        def run() -> Tensor:
            waits.clear()
            game = Game(seed=SEED, autocast=is_cuda)
            players = copy.deepcopy(start)
            optimizers = _optimizers(*players)
            losses = []
            for step, batch in enumerate(_timed(loader.epoch(EPOCH), waits, settings)):
                phase = schedule.phase(epoch=EPOCH, step=step)
                for player, model in zip((Phase.GENERATOR, Phase.SURROGATE), players, strict=True):
                    model.train(player is phase)
                optimizer = optimizers[phase]
                optimizer.zero_grad(set_to_none=True)
                loss = STEPS[phase](*players, batch, game=game, epoch=EPOCH).total().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            return torch.stack(losses).float().cpu()

        def run_plain() -> Tensor:
            players = copy.deepcopy(start)
            optimizers = _optimizers(*players)
            order = numpy_generator(SEED, EPOCH, "order").permutation(len(names))
            losses = []
            for step, first in enumerate(range(0, len(names), batch_size)):
                phase = schedule.phase(epoch=EPOCH, step=step)
                members = [int(index) for index in order[first : first + batch_size]]
                optimizers[phase].zero_grad(set_to_none=True)
                total = 0.0
                for position in members:
                    one = plain_data.sample(
                        root / "images" / f"{names[position]}.jpg",
                        root / "masks" / f"{names[position]}.png",
                        position=position, seed=SEED, epoch=EPOCH, sides=sides,
                    )  # fmt: skip
                    loss = _plain_loss(phase, *players, one, position, settings) / len(members)
                    loss.backward()
                    total += loss.item()
                optimizers[phase].step()
                losses.append(total)
            return torch.tensor(losses)

        row = compare(
            "train", f"{settings.size}, batch {batch_size}, {len(names)} images",
            settings=settings, ours=run, plain=run_plain, images=len(names),
            difference=lambda a, b: (a - b).abs().max().item(), bound=LOSS_BOUND[is_cuda],
            unit="of a step's loss",
        )  # fmt: skip
    row.extra["images/s"] = 1 / row.ours
    if is_cuda:
        # The first batch waits for workers to start, once a run.
        row.extra["data wait"] = sum(w for w, _ in waits[1:]) / sum(w + s for w, s in waits[1:])
    yield row


def _timed(
    batches: Iterable[Batch], waits: list[tuple[float, float]], settings: Settings
) -> Iterator[Batch]:
    """The batches, noting seconds of waiting and of working for each."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        here = time.perf_counter()
        yield batch
        if settings.device.type == "cuda":
            torch.cuda.synchronize(settings.device)
        waits.append((here - start, time.perf_counter() - here))


def _optimizers(generator: Generator, surrogate: Surrogate) -> dict[Phase, torch.optim.Adam]:
    return {
        Phase.GENERATOR: build_adam(generator.trainable_parameters().values(), lr=1e-4),
        Phase.SURROGATE: build_adam(surrogate.parameters(), lr=1e-4),
    }


def _plain_loss(
    phase: Phase,
    generator: Generator,
    surrogate: Surrogate,
    sample: plain_data.PlainSample,
    position: int,
    settings: Settings,
) -> Tensor:
    """Loss of one sample for the player of this phase."""
    device = settings.device
    image, small, mask = (
        tensor[None].to(device) for tensor in (sample.image, sample.small_image, sample.small_mask)
    )
    with torch.set_grad_enabled(phase is Phase.GENERATOR):
        noise = plain_models.generate_noise(generator, image, sample.generator_prompts.to(device))
    protected = compose(small, noise, region=torch.round(mask), epsilon=1, epsilon_bg=0.25)
    prompts = sample.surrogate_prompts.to(device)
    if phase is Phase.GENERATOR:
        with frozen(surrogate):
            logits = plain_models.segment(surrogate, protected, prompts)
        target = torch.ones_like(mask)
    else:
        logits, target = plain_models.segment(surrogate, protected, prompts), mask
    source = torch_generator(SEED, EPOCH, position, "points")
    points = choose_points(logits, generators=[source])
    return mask_losses(logits, target, points).total().mean()
