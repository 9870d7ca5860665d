"""From a configuration to a plan: the list, the generator, every check that writes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg.config.generate import GenerateConfig
from unseg.config.typed import choice_message
from unseg.data.annotations import AnnotationSource, Beside, Item, build_source
from unseg.io.decode import image_size
from unseg.io.files import free_bytes, sha256_file
from unseg.models.weights import load_noise, resolve_weights
from unseg.noise import Carrier
from unseg.protection.methods import METHODS, Method, MethodOptions, NoiseKey, budget_outside
from unseg.protection.noise_maker import NoiseMaker, default_batch_size
from unseg.protection.reading.item import ModelFrame, SubjectReader
from unseg.protection.settings import settings_of
from unseg.protection.writing.budget_check import fraction_note
from unseg.protection.writing.manifest import Earlier
from unseg.protection.writing.mirror import check_mirror
from unseg.protection.writing.output_paths import (
    OutputPaths,
    build_output_paths,
    check_outputs,
    input_folders,
)
from unseg.utils import distributed
from unseg.utils.errors import ConfigError, UserError

DEFAULT_GRID = 256
_SIZES_SAMPLED = 64
_BYTES_PER_VALUE = {"png": 0.85, "same": 0.9, "jpeg": 0.4}
"""Bytes on the disk for one channel of one pixel: noisy pictures compress badly."""


@dataclass(frozen=True)
class Plan:
    """All that protecting a list needs; made once by `prepare`.

    Attributes:
        config: the run's configuration.
        items: the whole list, the same on every rank.
        others: (name, what it is) of files beside the images that are none.
        reader: reads images and labels.
        layout: where outputs go.
        method: what is added.
        noise_maker: the generator, or None for methods without one.
        device: where pictures are composed.
        batch_size: images in a group.
        settings: flat settings that decide how a picture looks.
        earlier: finished images by key.
        rank: of this process.
        world_size: number of processes.
    """

    config: GenerateConfig
    items: Sequence[Item]
    others: Sequence[tuple[str, str]]
    reader: SubjectReader
    layout: OutputPaths
    method: Method
    noise_maker: NoiseMaker | None
    device: torch.device
    batch_size: int
    settings: dict[str, Any]
    earlier: dict[str, Earlier] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1


def prepare(
    config: GenerateConfig,
    *,
    source: AnnotationSource | None = None,
    folders: Sequence[Path] | None = None,
    generator: Any = None,
    key: NoiseKey | None = None,
    looks_beside: bool = True,
) -> Plan:
    """Everything that can be decided and checked without writing.

    Args:
        config: the run's configuration.
        source: images and labels, where they are not those of `config.data`.
        folders: folders that the output must not lie in; None: those of `config.data`.
        generator: one that is loaded already.
        key: one that is read already, where it is not that of `config.noise.key`.
        looks_beside: list what lies in the images' folders beside the images too.

    Raises:
        UserError: for every mistake that can be seen before the first image.
    """
    problems = method_problems(config)
    if problems:
        raise ConfigError(problems)
    layout = build_output_paths(config.output, config.data if source is None else None)
    source = source or build_source(config.data)
    beside = _beside(source) if looks_beside else Beside()
    items = _checked_items(config, source, beside, layout, folders)
    device = distributed.pick_device(config.run.device)
    model, generator_sha = _generator(config, generator, device)
    options = _method_options(config, model, key)
    method = METHODS[config.method](options)
    frame = _frame(config, model, options)
    batch_size = config.run.batch_size or default_batch_size(device)
    needs_model = method.noise_from != "none"
    maker = None
    if model is not None and needs_model:
        maker = NoiseMaker(
            model, device=device, precision=config.run.precision, batch_size=batch_size
        )
    return Plan(
        config=config,
        items=items,
        others=beside.others,
        reader=SubjectReader(
            source=source,
            region=config.region,
            prompt=config.prompt,
            frame=frame,
            seed=config.run.seed,
            max_pixels=config.data.max_pixels,
            classes=config.noise.classes if method.needs_classes else None,
            has_open_background=config.data.format == "coco",
        ),
        layout=layout,
        method=method,
        noise_maker=maker,
        device=device,
        batch_size=batch_size,
        settings=settings_of(config, method, frame, generator_sha if needs_model else None),
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def method_problems(config: GenerateConfig) -> list[str]:
    """An unknown method, or options of other methods alone: a line for each."""
    method = METHODS.get(config.method)
    if method is None:
        return [f"method={config.method}: {choice_message(config.method, METHODS)}"]
    problems = []
    try:
        Carrier.parse(config.noise.carrier or "rgb")
    except ValueError as error:
        problems.append(f"noise.carrier={config.noise.carrier}: {error}")
    if config.noise.key is not None and not method.takes_key:
        accepted = ", ".join(name for name, other in METHODS.items() if other.takes_key)
        problems.append(f"noise.key: is read by {accepted} alone, not by {config.method}")
    for option in fields(config.noise):
        key, value = f"noise.{option.name}", getattr(config.noise, option.name)
        readers = [name for name, other in METHODS.items() if key in other.reads]
        # Sweeps over methods share a budget, a grid and its colours. What only methods without a
        # budget read decides how loud they are: nobody sets it and means another method.
        is_shared = not readers or any(METHODS[name].has_budget for name in readers)
        if not is_shared and key not in method.reads and value != option.default:
            accepted = f"is read by {', '.join(readers)} alone, not by {config.method}"
            problems.append(f"{key}={value}: {accepted}")
    return problems


def _beside(source: AnnotationSource) -> Beside:
    look = getattr(source, "beside", None)
    return look() if look is not None else Beside()


def _checked_items(
    config: GenerateConfig,
    source: AnnotationSource,
    beside: Beside,
    layout: OutputPaths,
    folders: Sequence[Path] | None,
) -> Sequence[Item]:
    """The list; refused where its outputs would overwrite an input or each other."""
    items = source.items()
    if beside.items:
        known = {item.key for item in items}
        items = [*items, *(item for item in beside.items if item.key not in known)]
    if config.run.limit is not None:
        items = items[: config.run.limit]
    if METHODS[config.method].noise_from == "partner" and len(items) < 2:
        raise UserError(f"method={config.method} needs at least two images in the list")
    if folders is None:
        folders = input_folders(config.data, config.output.layout)
    check_outputs(layout, items, folders)
    if config.output.layout == "mirror":
        check_mirror(layout, items, Path(config.data.root))
    return items


def _generator(
    config: GenerateConfig, generator: Any, device: torch.device
) -> tuple[Any, str | None]:
    """The generator and its file's checksum, where the method or its grid needs one."""
    if generator is not None:
        return generator, None
    method = METHODS[config.method]
    if not method.needs_generator(has_grid=config.noise.grid is not None):
        return None, None
    try:
        path = resolve_weights(config.generator.path)
        model = load_noise(path, parent=config.generator.parent, device=device)
    except UserError as error:
        has_other_way = not method.needs_generator(has_grid=True)
        hint = "; or set noise.grid, then no generator is needed" if has_other_way else ""
        raise UserError(f"generator.path: {error}{hint}") from None
    return model, sha256_file(path)


def _method_options(config: GenerateConfig, model: Any, key: NoiseKey | None) -> MethodOptions:
    noise = config.noise
    if noise.key is not None:
        key = NoiseKey.read(noise.key)
    epsilon_bg = budget_outside(noise.epsilon_bg, model)
    if epsilon_bg > noise.epsilon:  # one that is given was checked with the rest
        raise UserError(
            f"noise.epsilon_bg: is {epsilon_bg:g} where none is given, above noise.epsilon "
            f"({noise.epsilon:g}); set noise.epsilon_bg"
        )
    return MethodOptions(
        epsilon=noise.epsilon,
        epsilon_bg=epsilon_bg,
        seed=config.run.seed,
        tile=noise.tile,
        grid=noise.grid or int(getattr(model, "noise_size", DEFAULT_GRID)),
        carrier=noise.carrier or ("rgb" if model is None else str(model.noise_carrier)),
        quality=config.output.quality,
        psnr=noise.psnr,
        patch=noise.patch,
        classes=noise.classes,
        key=key,
    )


def _frame(config: GenerateConfig, model: Any, options: MethodOptions) -> ModelFrame:
    """The generator's frame; without one that of a model with patches of 16 on the same grid."""
    if model is not None:
        return ModelFrame(image_size=model.image_size, mask_size=model.noise_size)
    return ModelFrame(image_size=4 * options.grid, mask_size=options.grid)


def notes_on(plan: Plan) -> list[tuple[int, str]]:
    """What the user should know before the run, each with the level of its log."""
    method = plan.config.method
    notes = [(logging.INFO, f"method {method}: {METHODS[method].title}")]
    fraction = fraction_note(plan.method.bounds)
    if fraction:
        notes.append((logging.WARNING, fraction))
    needed, measured = _estimate(plan)
    if needed:
        free = free_bytes(plan.layout.folder)
        space = (
            f"{plan.layout.folder}: about {_size(needed)} needed (from the sizes of {measured} of "
            f"{len(plan.items)} images), {_size(free)} free"
        )
        notes.append((logging.INFO, space))
        if needed > free:
            notes.append((logging.WARNING, f"the disk is probably too small: {space}"))
    return notes


def _estimate(plan: Plan) -> tuple[int, int]:
    """Bytes that the outputs will need, and from how many images' headers that is known."""
    step = max(1, len(plan.items) // _SIZES_SAMPLED)
    pixels = []
    for item in plan.items[::step]:
        if item.fault is None:
            try:
                height, width = image_size(item.image_path)
            except UserError:
                continue
            pixels.append(height * width)
    if not pixels:
        return 0, 0
    per_value = _BYTES_PER_VALUE[plan.config.output.format]
    copies = 2 if plan.config.output.noise else 1
    return int(np.mean(pixels) * 3 * per_value * copies * len(plan.items)), len(pixels)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
