"""Benchmarks of the networks: a generation, both training steps, the noise decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain_models as plain
from benchmarks.measure import NO_BF16, Row, Settings, bf16_note, compare, largest
from unseg.engine.bilevel import frozen
from unseg.losses import choose_points, mask_losses
from unseg.models import SIZES, Generator, Surrogate, build_generator, build_surrogate
from unseg.models.encoder import EncodedPrompts
from unseg.noise import compose
from unseg.types import Prompts

EPSILON = 8
NOISE_BOUND = 1e-4
LEVELS_BOUND = 0.25
M = TypeVar("M", bound=torch.nn.Module)
GRADIENT_BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def seeded_generator(settings: Settings) -> Generator:
    """Random weights, with relative positions that are not all zero: training changes them."""
    torch.manual_seed(0)
    return _with_positions(build_generator(settings.size)).to(settings.device).eval()


def seeded_surrogate(settings: Settings) -> Surrogate:
    """The same for the surrogate."""
    torch.manual_seed(1)
    return _with_positions(build_surrogate(settings.size)).to(settings.device).train()


def generator(settings: Settings) -> Iterator[Row]:
    """Noise of images with mask prompts: the whole forward pass, without gradients."""
    model = seeded_generator(settings)
    image, prompts = _inputs(settings, model.image_size, model.noise_size, kinds=("mask",))
    is_cuda = settings.device.type == "cuda"

    def run_plain() -> Tensor:
        with torch.no_grad():
            return plain.generate_noise(model, image, prompts)

    def run(dtype: torch.dtype | None) -> Callable[[], Tensor]:
        def path() -> Tensor:
            model.encoder_dtype = None if is_cuda else dtype
            with torch.inference_mode(), _autocast(settings, dtype if is_cuda else None):
                return model(image, prompts).float()

        return path

    common: dict[str, Any] = {
        "settings": settings,
        "plain": run_plain,
        "images": len(image),
        "memory_goal": 0.15,
        "flops": _flops(run_plain, len(image)),
    }
    yield compare(
        "generator", f"{settings.size} {model.image_size} float32",
        ours=run(None), difference=largest, bound=NOISE_BOUND, unit="of noise in [-1, 1]",
        goal=1.5, **common,
    )  # fmt: skip
    yield compare(
        "generator",
        f"{settings.size} {model.image_size} bfloat16 {'all' if is_cuda else 'encoder'}",
        ours=run(torch.bfloat16), difference=lambda a, b: EPSILON * largest(a, b),
        bound=LEVELS_BOUND, unit=f"grey level at epsilon {EPSILON}",
        goal=2.5, note=bf16_note(settings.device), **common,
    )  # fmt: skip
    model.encoder_dtype = None


def noise_decoder(settings: Settings) -> Iterator[Row]:
    """Decoder and prompt encoder on four images with different kinds of prompts."""
    model = seeded_generator(settings)
    several = Settings(**{**vars(settings), "batch": 4})
    image, prompts = _inputs(several, model.image_size, model.noise_size)
    random = torch.Generator().manual_seed(3)
    spec = SIZES[settings.size]
    shape = (len(image), model.grid, model.grid, spec.embed_dim)
    early = torch.randn(shape, generator=random).to(settings.device)
    shape = (len(image), spec.decoder_dim, model.grid, model.grid)
    embedding = torch.randn(shape, generator=random).to(settings.device)

    def run() -> Tensor:
        with torch.inference_mode():
            encoded: EncodedPrompts = model.prompt_encoder(prompts, len(image))
            pe = model.prompt_encoder.get_dense_pe()
            noise = model.mask_decoder(embedding, early, pe, encoded, readout="noise_tokens")
            return torch.tanh(noise)

    def run_plain() -> Tensor:
        noises = []
        with torch.no_grad():
            for row in range(len(image)):
                one = slice(row, row + 1)
                encoder = model.prompt_encoder
                encoded = plain.encode_prompts(encoder, plain.single_prompts(prompts, row))
                noises.append(plain.decode_noise(model, embedding[one], early[one], encoded))
        return torch.cat(noises)

    yield compare(
        "noise_decoder", f"{settings.size} batch {len(image)}, mixed prompts",
        settings=settings, ours=run, plain=run_plain, images=len(image),
        difference=largest, bound=NOISE_BOUND, unit="of noise in [-1, 1]",
    )  # fmt: skip


def surrogate_step(settings: Settings) -> Iterator[Row]:
    """Forward, losses and backward of the surrogate on a protected image with one prompt."""
    model = seeded_surrogate(settings)
    image, prompts = _inputs(settings, model.image_size, model.logit_size, kinds=("box",))
    target = (_discs(len(image), model.image_size) > 0.5).float().to(settings.device)
    with torch.no_grad():
        undecided = plain.segment(model, image, prompts)

    def step(forward: Callable[[], Tensor]) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        _loss(forward().float(), target, undecided).backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    def run_plain() -> dict[str, Tensor]:
        return step(lambda: plain.segment(model, image, prompts))

    def run(dtype: torch.dtype | None) -> Callable[[], dict[str, Tensor]]:
        def forward() -> Tensor:
            with _autocast(settings, dtype):
                return model(image, prompts)

        return lambda: step(forward)

    yield from _step_rows("surrogate_step", settings, run, run_plain, model.image_size, 1.15, 1.7)


def generator_step(settings: Settings) -> Iterator[Row]:
    """The generator's loss through the frozen surrogate, backward to the noise branches."""
    generator_model, model = seeded_generator(settings), seeded_surrogate(settings).eval()
    side, full = model.image_size, generator_model.image_size
    image, prompts = _inputs(settings, full, generator_model.noise_size)
    small = torch.nn.functional.avg_pool2d(image, full // side)
    _, surrogate_prompts = _inputs(settings, side, model.logit_size, kinds=("box",))
    region = _discs(len(image), side).round().to(settings.device)
    budget: dict[str, Any] = {"region": region, "epsilon": 1, "epsilon_bg": 0.25}
    trainable = generator_model.trainable_parameters()

    def plain_logits() -> Tensor:
        noise = plain.generate_noise(generator_model, image, prompts)
        return plain.segment(model, compose(small, noise, **budget), surrogate_prompts)

    with torch.no_grad():
        undecided = plain_logits()

    def step(forward: Callable[[], Tensor]) -> dict[str, Tensor]:
        generator_model.zero_grad(set_to_none=True)
        with frozen(model):
            logits = forward().float()
        _loss(logits, torch.ones_like(region), undecided).backward()
        return {k: p.grad for k, p in trainable.items() if p.grad is not None}

    def run_plain() -> dict[str, Tensor]:
        return step(plain_logits)

    def run(dtype: torch.dtype | None) -> Callable[[], dict[str, Tensor]]:
        def forward() -> Tensor:
            with _autocast(settings, dtype):
                noise = generator_model(image, prompts)
            protected = compose(small, noise.float(), **budget)
            with _autocast(settings, dtype):
                return model(protected, surrogate_prompts)

        return lambda: step(forward)

    yield from _step_rows("generator_step", settings, run, run_plain, side, None, None)


def _step_rows(
    name: str,
    settings: Settings,
    run: Callable[[torch.dtype | None], Callable[[], dict[str, Tensor]]],
    run_plain: Callable[[], dict[str, Tensor]],
    side: int,
    goal: float | None,
    bf16_goal: float | None,
) -> Iterator[Row]:
    for dtype, wanted in ((torch.float32, goal), (torch.bfloat16, bf16_goal)):
        note = bf16_note(settings.device) if dtype == torch.bfloat16 else ""
        if note == NO_BF16 and settings.size != "tiny":
            continue  # emulated at a multiple of the time: says nothing about any machine
        yield compare(
            name, f"{settings.size} {side} {str(dtype).removeprefix('torch.')}",
            settings=settings, ours=run(None if dtype == torch.float32 else dtype),
            plain=run_plain, images=settings.batch, difference=_gradient_difference,
            bound=GRADIENT_BOUND[dtype], unit="of the gradient's norm", goal=wanted, note=note,
            flops=_flops(run_plain, settings.batch),
        )  # fmt: skip


def _gradient_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of all gradients, relative to the norm of the plain ones."""
    error = sum((found[k].double() - expected[k].double()).square().sum() for k in expected)
    norm = sum(value.double().square().sum() for value in expected.values())
    return float(torch.as_tensor(error / norm).sqrt())


def _loss(logits: Tensor, target: Tensor, undecided: Tensor) -> Tensor:
    """The training loss, at points chosen by the logits `undecided`.

    They are the same for both paths: logits that differ by rounding swap candidates of nearly equal
    uncertainty, each 1e-4 of the loss, and that would hide what the paths themselves differ by.
    """
    sources = [torch.Generator().manual_seed(row) for row in range(len(logits))]
    points = choose_points(undecided, generators=sources)
    return mask_losses(logits, target, points).total().mean()


def _inputs(
    settings: Settings,
    image_size: int,
    mask_size: int,
    *,
    kinds: tuple[str, ...] = ("box", "points", "mask"),
) -> tuple[Tensor, Prompts]:
    """Smooth random pictures, each with another prompt kind in turn."""
    random = torch.Generator().manual_seed(2)
    coarse = torch.rand(settings.batch, 3, 16, 16, generator=random)
    image = torch.nn.functional.interpolate(coarse, (image_size, image_size), mode="bilinear")
    image = (image + 0.1 * torch.rand(image.shape, generator=random)).clamp(0, 1)
    kept = []
    for row in range(settings.batch):
        kind = kinds[row % len(kinds)]
        x = 0.2 * image_size + 5 * row
        box = torch.tensor([[x, x, 0.7 * image_size, 0.8 * image_size]])
        points = torch.rand(1, 10, 2, generator=random) * image_size
        kept.append(
            Prompts(
                boxes=box if kind == "box" else None,
                point_coords=points if kind == "points" else None,
                mask_inputs=_discs(1, mask_size).round() * 255 if kind == "mask" else None,
            )
        )
    prompts = Prompts.cat(kept, [1] * len(kept))
    return image.to(settings.device), prompts.to(settings.device)


def _discs(count: int, side: int) -> Tensor:
    line = torch.linspace(-1, 1, side)
    radius = (line[:, None] ** 2 + line[None] ** 2).sqrt()
    return ((0.6 - radius) * side / 4 + 0.5).clamp(0, 1).expand(count, 1, side, side).clone()


def _with_positions(model: M) -> M:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name:
                parameter.normal_(std=0.1)
    return model


def _autocast(settings: Settings, dtype: torch.dtype | None) -> torch.autocast:
    enabled = dtype is not None
    return torch.autocast(settings.device.type, dtype or torch.bfloat16, enabled=enabled)


def _flops(path: Callable[[], object], images: int) -> Callable[[], float]:
    """Multiplications and additions of an image, counted on the plain path when asked for."""

    def count() -> float:
        with FlopCounterMode(display=False) as counter:
            path()
        return counter.get_total_flops() / images

    return count
