"""What a trainer may do against suspicious pictures: a registry of composable defences.

A defence is written `name-value`, several are joined by `+`: `jpeg-75`, `blur-1+grey`,
`jpeg-75+adversarial`. Most act once, in the order in which they are written, on the published
pictures at their own size, before the trainer's resizing. Greyscale changes what the model can
see, so it is applied at test time too. Those of `TRAINING` act on each batch of the training
instead (`training.py`), after the recipe's own augmentation, and can be joined to the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unseg import degrade
from unseg.utils.errors import UserError

NO_DEFENCE = "none"
ATTACK_EPSILON = 0.03
"""Bound of the attack of adversarial training on a value in [0, 1]: about 8 grey levels."""


@dataclass(frozen=True)
class Defence:
    """One operation on pictures.

    Attributes:
        apply: (B, 3, H, W) float in [0, 1] and the value -> the same shape.
        low: smallest accepted value.
        high: largest accepted value.
        default: the value where none is written; None means that one must be.
        at_test: whether test pictures go through it as well.
    """

    apply: Callable[[Tensor, float], Tensor]
    low: float
    high: float
    default: float | None = None
    at_test: bool = False


DEFENCES: dict[str, Defence] = {
    "blur": Defence(lambda image, sigma: degrade.gaussian_blur(image, sigma), 0.05, 20),
    "jpeg": Defence(lambda image, quality: degrade.jpeg(image, int(quality)), 1, 100),
    "grey": Defence(lambda image, _: degrade.greyscale(image), 1, 1, default=1, at_test=True),
    "bits": Defence(lambda image, bits: degrade.bit_depth(image, int(bits)), 1, 8),
    "median": Defence(lambda image, size: degrade.median(image, int(size)), 3, 15, default=3),
    "downup": Defence(lambda image, scale: degrade.down_up(image, scale), 0.05, 1, default=0.5),
}
"""Name -> operation. Values: sigma in pixels, JPEG quality, bits, window side, factor."""


@dataclass(frozen=True)
class TrainingDefence:
    """A change of the training itself.

    Attributes:
        low: smallest accepted value.
        high: largest accepted value.
        default: the value where none is written.
        is_whole: the value is a whole number.
    """

    low: float
    high: float
    default: float | None
    is_whole: bool = False


TRAINING: dict[str, TrainingDefence] = {
    "adversarial": TrainingDefence(0.001, 0.5, default=ATTACK_EPSILON),
    "ddc_at": TrainingDefence(0.001, 0.5, default=ATTACK_EPSILON),
    "ueraser_like": TrainingDefence(1, 10, default=1, is_whole=True),
}
"""Name -> what its value may be: bound of the attack in [0, 1] (twice), number of draws."""


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


def training_defences(text: str) -> dict[str, float]:
    """Those operations of a written defence that change the training, with their values."""
    return {name: value for name, value in parse_defence(text) if name in TRAINING}


def picture_defence(text: str) -> str:
    """What is left of a written defence without the operations that change the training."""
    parts = [part for part in text.split("+") if part.partition("-")[0] not in TRAINING]
    return "+".join(parts) or NO_DEFENCE


def _parse_one(part: str, text: str) -> tuple[str, float]:
    name, _, written = part.partition("-")
    entry = DEFENCES.get(name) or TRAINING.get(name)
    if entry is None:
        known = ", ".join((*DEFENCES, *TRAINING))
        raise UserError(f"defence {text!r}: unknown {name!r}; known are none, {known}")
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
    if isinstance(entry, TrainingDefence) and entry.is_whole and value != int(value):
        raise UserError(f"defence {text!r}: {name} takes a whole number, found {value:g}")
    return name, value


def apply_defence(image: Tensor, text: str, *, at_test: bool = False) -> Tensor:
    """Pictures after a written defence; operations that change the training leave them alone.

    Args:
        image: (B, 3, H, W) float in [0, 1], at the pictures' own size.
        text: for example "none", "jpeg-75", "blur-1+grey".
        at_test: only those operations that test pictures go through as well.
    """
    for name, value in parse_defence(text):
        entry = DEFENCES.get(name)
        if entry is not None and (entry.at_test or not at_test):
            image = entry.apply(image, value)
    return image
