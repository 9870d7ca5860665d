"""Benchmarks of the data side of training: prompts from masks, whole samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import plain_data
from benchmarks.measure import Row, Settings, compare, largest
from benchmarks.pictures import TRAINING_SIZES, write_set
from benchmarks.plain_data import PlainSample, Sides
from unseg.data.hqseg import open_folders
from unseg.data.loader import TrainLoader
from unseg.data.pairs import Dataset
from unseg.data.prompts import bilinear, boxes_from_masks, generator_prompts
from unseg.models import SIZES
from unseg.types import Batch, Prompts
from unseg.utils.seed import numpy_generator

DECODER_LEVELS = 3 / 255
"""Two JPEG decoders may round a pixel differently, by up to three grey levels."""

SEED, EPOCH = 7, 0


def prompts(settings: Settings) -> Iterator[Row]:
    """Boxes of a batch of masks, and complete prompts."""
    side = SIZES[settings.size].image_size
    masks = _ellipses(8, side)
    yield compare(
        "prompts", f"boxes of 8 masks {side}", settings=settings, images=8, number=5,
        ours=lambda: boxes_from_masks(masks), plain=lambda: plain_data.boxes(masks),
        difference=largest, bound=0, unit="pixel", goal=6,
    )  # fmt: skip

    def draw(path: Callable[..., Prompts], **more: object) -> Callable[[], list[Prompts]]:
        def run() -> list[Prompts]:
            rngs = [numpy_generator(SEED, row) for row in range(len(masks))]
            rows = zip(masks[:, None], rngs, strict=True)
            return [path(mask, rng=rng, **more) for mask, rng in rows]

        return run

    size = side // SIZES[settings.size].patch_size * 4
    yield compare(
        "prompts", f"generator's prompts of 8 masks {side}", settings=settings, images=8,
        ours=draw(generator_prompts, mask_size=size),
        plain=draw(plain_data.prompts, size=size, most=3),
        difference=lambda a, b: max(prompt_difference(x, y) for x, y in zip(a, b, strict=True)),
        bound=0, unit="pixel or level",
    )  # fmt: skip


def training_sample(settings: Settings) -> Iterator[Row]:
    """Decode, jitter, pad, half-size copy and prompts of samples of HQSeg-44K's sizes."""
    sides = training_sides(settings)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = write_set(root, TRAINING_SIZES)
        dataset = open_folders("benchmark", root / "images", root / "masks")

        def run_plain() -> list[PlainSample]:
            return [
                plain_data.sample(
                    root / "images" / f"{name}.jpg", root / "masks" / f"{name}.png",
                    position=position, seed=SEED, epoch=EPOCH, sides=sides,
                )
                for position, name in enumerate(names)
            ]  # fmt: skip

        def run() -> dict[int, PlainSample]:
            loader = train_loader(dataset, sides, batch_size=1, device="cpu")
            return {int(b.indices): _as_sample(b, sides) for b in loader.epoch(EPOCH)}

        # Where the device is no CPU, workers hand over uint8 pixels and the device renders them;
        # "meta" stands for a device that takes no time of the CPU's.
        elsewhere = train_loader(dataset, sides, batch_size=1, device="meta")
        rendered = run()

        def hand_over() -> None:
            for _ in elsewhere.hand_over(EPOCH):
                pass

        def difference(found: dict[int, PlainSample] | None, expected: list[PlainSample]) -> float:
            found = found or rendered  # what a device would make of the hand-over
            return max(_difference(found[i], one) for i, one in enumerate(expected))

        goal = 4.0 if settings.size != "tiny" else None
        for case, path, wanted in (
            ("up to the hand-over to a device", hand_over, goal), ("whole, on the CPU", run, None)
        ):  # fmt: skip
            yield compare(
                "training_sample", f"{sides.image}, {case}", settings=settings, ours=path,
                plain=run_plain, images=len(names), difference=difference, bound=DECODER_LEVELS,
                unit="of [0, 1]", goal=wanted,
            )  # fmt: skip


def training_sides(settings: Settings) -> Sides:
    """The frames of both players of a size."""
    spec = SIZES[settings.size]
    side = spec.image_size
    mask = side // spec.patch_size * 4
    return Sides(image=side, mask=mask, surrogate=side // 2, surrogate_mask=mask // 2)


def train_loader(
    dataset: Dataset, sides: Sides, *, batch_size: int, device: torch.device | str, workers: int = 0
) -> TrainLoader:
    """Our loader in these frames."""
    return TrainLoader(
        dataset, image_size=sides.image, generator_mask_size=sides.mask,
        surrogate_image_size=sides.surrogate, surrogate_mask_size=sides.surrogate_mask,
        batch_size=batch_size, seed=SEED, num_workers=workers, device=device,
    )  # fmt: skip


def prompt_difference(found: Prompts, expected: Prompts) -> float:
    """Largest difference of two prompts of one image; infinite where their kinds differ."""
    if found.kinds != expected.kinds:
        return float("inf")
    values = []
    for name in ("boxes", "point_coords", "mask_inputs"):
        one, other = getattr(found, name), getattr(expected, name)
        if one is not None and other is not None:
            values.append(largest(one, other))
    return max(values)


def _as_sample(batch: Batch, sides: Sides) -> PlainSample:
    return PlainSample(
        batch.image[0],
        batch.mask[0],
        bilinear(batch.image, sides.surrogate)[0],
        bilinear(batch.mask, sides.surrogate)[0],
        batch.generator_prompts,
        batch.surrogate_prompts,
    )


def _difference(found: PlainSample, expected: PlainSample) -> float:
    return max(
        largest(getattr(found, name), getattr(expected, name))
        for name in ("image", "mask", "small_image", "small_mask")
    )


def _ellipses(count: int, side: int) -> Tensor:
    line = torch.linspace(-1, 1, side)
    masks = []
    for row in range(count):
        across, along = 0.3 + 0.05 * row, 0.8 - 0.07 * row
        inside = (line[:, None] / along) ** 2 + ((line[None] - 0.1) / across) ** 2
        masks.append(((1 - inside) * side / 8).clamp(0, 1)[None])
    return torch.stack(masks)
