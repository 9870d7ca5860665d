"""What a trainer may do against suspicious pictures: registries of composable defences.

A defence is written `name-value`, several are joined by `+`: `jpeg-75`, `blur-1+grey`,
`jpeg-75+adversarial`. There are three kinds:

- `PICTURE`: an operation on each published picture at its own size, before the trainer's resizing;
- `LEARNT`: the same, fitted to all published training pictures first;
- `TRAINING`: a change of the training (`unseg/victims/training/`), after the recipe's augmentation.

Those on pictures act in the order in which they are written, a learnt one on what the parts before
it leave. A change of what the model can see (`grey`, `colour-norm`) is made at test time too.
`ALTERNATIVES` name several defences, each of which is run; a report shows the better one.

A new defence is one function with its source in its docstring, and one line here.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from torch import Tensor

from unseg import degrade
from unseg.utils.errors import UserError
from unseg.utils.seed import torch_generator
from unseg.victims.data.defences.base import (
    Defence,
    Defend,
    DefendedPictures,
    Known,
    LearntDefence,
    PictureDefence,
    PublishedPicture,
    TrainingDefence,
)
from unseg.victims.data.defences.known_generator import fit_remover, fit_same_generator
from unseg.victims.data.defences.notch import fit_notch
from unseg.victims.data.defences.projection import fit_projection
from unseg.victims.data.defences.residual import fit_mean_residual

NO_DEFENCE = "none"
ATTACK_EPSILON = 0.03
"""Bound of the attack of adversarial training on a value in [0, 1]: about 8 grey levels."""

PICTURE: dict[str, PictureDefence] = {
    "blur": PictureDefence(apply=lambda x, v, _: degrade.gaussian_blur(x, v), low=0.05, high=20),
    "jpeg": PictureDefence(apply=lambda x, v, _: degrade.jpeg(x, int(v)), low=1, high=100),
    "grey": PictureDefence(apply=lambda x, _v, _: degrade.greyscale(x), default=1, at_test=True),
    "bits": PictureDefence(apply=lambda x, v, _: degrade.bit_depth(x, int(v)), low=1, high=8),
    "median": PictureDefence(
        apply=lambda x, v, _: degrade.median(x, int(v)), low=3, high=15, default=3
    ),
    "downup": PictureDefence(
        apply=lambda x, v, _: degrade.down_up(x, v), low=0.05, high=1, default=0.5
    ),
    "dct": PictureDefence(
        apply=lambda x, v, _: degrade.dct_low_pass(x, v / 100), low=1, high=100, default=30
    ),
    "sharpen": PictureDefence(
        apply=lambda x, v, rng: degrade.sharpened(x, v, generator=rng),
        low=1, high=10, default=2.5, is_random=True,
    ),
    "coin": PictureDefence(
        apply=lambda x, v, rng: degrade.displaced(x, v, generator=rng),
        low=0, high=20, default=2, is_random=True,
    ),
    "colour-norm": PictureDefence(
        apply=lambda x, _v, _: degrade.standardised(x), default=1, at_test=True
    ),
}  # fmt: skip
"""Name -> operation. Values: sigma in pixels, JPEG quality, bits, window side, factor, percent of
the DCT's rows and columns, centre of the kernel, pixels."""

LEARNT: dict[str, LearntDefence] = {
    "oproj": LearntDefence(
        fit=fit_projection,
        assumes="the protected set and its masks",
        low=1, high=31, default=7, is_whole=True, is_random=True,
    ),
    "mean-residual": LearntDefence(
        fit=fit_mean_residual,
        assumes="the protected set, its masks, and the grid on which the noise lies",
        low=4, high=1024, default=64, is_whole=True,
    ),
    "notch": LearntDefence(
        fit=fit_notch, assumes="the protected set", low=1, high=100, default=6
    ),
    "regenerate": LearntDefence(
        fit=fit_remover,
        assumes="the protected set and its masks, the public generator, clean pictures and masks "
        "of another set",
        default=1, needs_generator=True, needs_pairs=True, is_random=True,
    ),
    "same-generator": LearntDefence(
        fit=fit_same_generator,
        assumes="the protected set and its masks, the public generator with its seed and budget",
        default=1, needs_generator=True,
    ),
}  # fmt: skip
"""Name -> fitting. Values: pixels a side of a patch (odd), cells of the noise a side, median
absolute deviations."""

TRAINING: dict[str, TrainingDefence] = {
    "adversarial": TrainingDefence(low=0.001, high=0.5, default=ATTACK_EPSILON),
    "ddc_at": TrainingDefence(low=0.001, high=0.5, default=ATTACK_EPSILON),
    "ueraser_like": TrainingDefence(low=1, high=10, default=1, is_whole=True),
    "shift": TrainingDefence(low=0, high=64, default=8),
    "frozen": TrainingDefence(low=0, high=7, default=2, is_whole=True, needs_pretrained=True),
    "dfr": TrainingDefence(low=0.1, high=100, default=10),
}
"""Name -> what its value may be: bound of the attack in [0, 1] (twice), draws, grey levels,
stages after the stem, percent of clean pictures."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {"iss": ("jpeg-10", "grey")}
"""Name -> defences of which a report shows the better one. iss: Liu, Zhao, Larson, "Image Shortcut
Squeezing: Countering Perturbative Availability Poisons with Compression", ICML 2023."""


def parse_defence(text: str) -> tuple[tuple[str, float], ...]:
    """The operations that a written defence names; none for "none".

    Raises:
        UserError: unknown name, or a value that is missing, no number or out of range.
    """
    if text == NO_DEFENCE:
        return ()
    parsed = tuple(_parse_one(part, text) for part in text.split("+"))
    names = [name for name, _ in parsed if name in TRAINING]
    if len(set(names)) < len(names) or {"adversarial", "ddc_at"} <= set(names):
        raise UserError(f"defence {text!r}: ddc_at contains adversarial, and none is given twice")
    return parsed


def alternatives(text: str) -> tuple[str, ...]:
    """The defences that a written one stands for: itself, or each of its `ALTERNATIVES`."""
    choices = [ALTERNATIVES.get(part, (part,)) for part in text.split("+")]
    return tuple("+".join(chosen) for chosen in itertools.product(*choices))


def training_defences(text: str) -> dict[str, float]:
    """Those operations of a written defence that change the training, with their values."""
    return {name: value for name, value in parse_defence(text) if name in TRAINING}


def picture_defence(text: str) -> str:
    """What is left of a written defence without the operations that change the training."""
    parts = [part for part in text.split("+") if _name_of(part) not in TRAINING]
    return "+".join(parts) or NO_DEFENCE


def learnt_defences(text: str) -> tuple[LearntDefence, ...]:
    """Those operations of a written defence that are fitted to the published pictures."""
    return tuple(LEARNT[name] for name, _ in parse_defence(text) if name in LEARNT)


def needs_generator(text: str) -> bool:
    """Whether a written defence means something only where there is a public generator."""
    return any(entry.needs_generator for entry in learnt_defences(text))


def is_drawn(text: str) -> bool:
    """Whether the pictures after a written defence depend on the seed."""
    entries = [PICTURE.get(name) or LEARNT.get(name) for name, _ in parse_defence(text)]
    return any(entry is not None and entry.is_random for entry in entries)


def _parse_one(part: str, text: str) -> tuple[str, float]:
    name = _name_of(part)
    entry = _entries().get(name)
    if entry is None:
        known = ", ".join((*_entries(), *ALTERNATIVES))
        raise UserError(f"defence {text!r}: unknown {name!r}; known are none, {known}")
    written = part[len(name) + 1 :]
    if not written:
        if entry.default is None:
            raise UserError(
                f"defence {text!r}: {name} needs a value, for example {name}-{entry.high:g}"
            )
        return name, entry.default
    try:
        value = float(written)
    except ValueError:
        raise UserError(f"defence {text!r}: {written!r} is no number") from None
    if not entry.low <= value <= entry.high:
        raise UserError(
            f"defence {text!r}: {name} takes {entry.low:g} to {entry.high:g}, found {value:g}"
        )
    if entry.is_whole and value != int(value):
        raise UserError(f"defence {text!r}: {name} takes a whole number, found {value:g}")
    return name, value


def _entries() -> dict[str, Defence]:
    return {**PICTURE, **LEARNT, **TRAINING}


def _name_of(part: str) -> str:
    """The registered name that a part begins with; else all before its first hyphen."""
    for name in _entries():
        if part == name or part.startswith(name + "-"):
            return name
    return part.partition("-")[0]


def ready_defence(text: str, known: Known | None = None, *, seed: int = 0) -> Defend:
    """A written defence for training pictures, fitted where it learns.

    Operations that change the training leave pictures alone.

    Args:
        text: for example "none", "jpeg-75", "blur-1+grey", "mean-residual".
        known: what the trainer has, for defences that learn.
        seed: of what is drawn for each picture.
    """
    ready: list[Defend] = []
    for name, value in parse_defence(text):
        if name in PICTURE:
            ready.append(_one_picture(name, value, seed))
        elif name in LEARNT:
            assert known is not None, text
            published = DefendedPictures(known.pictures, _chained(tuple(ready)))
            ready.append(LEARNT[name].fit(replace(known, pictures=published), value))
    return _chained(tuple(ready))


def defence_at_test(text: str) -> Defend:
    """A written defence for test pictures: those operations that they go through as well."""
    return _chained(
        tuple(
            _one_picture(name, value, 0)
            for name, value in parse_defence(text)
            if name in PICTURE and PICTURE[name].at_test
        )
    )


def _one_picture(name: str, value: float, seed: int) -> Defend:
    apply = PICTURE[name].apply

    def defend(picture: PublishedPicture) -> Tensor:
        rng = torch_generator(seed, name, picture.key)
        return apply(picture.image[None], value, rng)[0]

    return defend


def _chained(parts: tuple[Defend, ...]) -> Defend:
    def defend(picture: PublishedPicture) -> Tensor:
        for part in parts:
            picture = replace(picture, image=part(picture))
        return picture.image

    return defend
