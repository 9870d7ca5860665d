"""The step before a run of `method=em`: learn the noise of the whole list and keep it in a file.

Rank 0 learns it, the others read it; a run that goes on reads it too, so that every image gets the
noise of one and the same optimisation.
"""

from __future__ import annotations

import logging

import torch
from safetensors.torch import load, save

from unseg.protect.forward import level_tensor
from unseg.protect.layout import LEARNT_NOISE
from unseg.protect.methods.error_minimising import (
    ErrorMinimising,
    Reduced,
    learn_noise,
    reduce_picture,
)
from unseg.protect.pipeline import Plan
from unseg.utils.errors import UserError
from unseg.utils.files import atomic_write_bytes

_log = logging.getLogger(__name__)


def learn_list(plan: Plan) -> None:
    """Rank 0, after the folder was checked: learn the noise, unless an earlier run has.

    Does nothing for methods that learn none.

    Raises:
        UserError: the list is too long to be held in memory.
    """
    method = plan.method
    if not isinstance(method, ErrorMinimising):
        return
    limit = plan.config.em.max_images
    if len(plan.items) > limit:
        raise UserError(
            f"method=em holds all {len(plan.items)} images in memory; it is meant for small sets "
            f"(set run.limit, or em.max_images={len(plan.items)})"
        )
    path = plan.layout.folder / LEARNT_NOISE
    if plan.config.run.restart or not path.is_file():
        atomic_write_bytes(path, save(_learn(plan, method)))


def take_noise(plan: Plan) -> None:
    """Every rank, after that: give the method its noise."""
    if isinstance(plan.method, ErrorMinimising):
        stored = load((plan.layout.folder / LEARNT_NOISE).read_bytes())
        plan.method.noises = {key: noise.float() for key, noise in stored.items()}


def _learn(plan: Plan, method: ErrorMinimising) -> dict[str, torch.Tensor]:
    config = plan.config.em
    pictures: list[Reduced] = []
    for item in plan.items:
        try:
            subject = plan.reader.read(item)
        except Exception as error:  # noqa: BLE001 - the run itself reports it
            _log.warning("%s: gets no noise: %s", item.key, error)
            continue
        assert subject.classes is not None
        picture = subject.picture
        levels = level_tensor(picture.pixels, torch.device("cpu"))[0] / picture.max_value
        region, classes = map(torch.from_numpy, (subject.region.copy(), subject.classes.copy()))
        pictures.append(reduce_picture(item.key, levels, region, classes, side=config.size))
    _log.info("em: %d images at %d px, %d rounds", len(pictures), config.size, config.rounds)
    return learn_noise(
        pictures,
        options=method.options,
        rounds=config.rounds,
        surrogate_steps=config.surrogate_steps,
        noise_steps=config.noise_steps,
        batch_size=config.batch_size,
        device=plan.device,
    )
