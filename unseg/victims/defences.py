"""What a trainer may do to suspicious pictures before training: a registry of composable defences.

A defence is written `name-value`, several are joined by `+` and applied in order:
`jpeg-75`, `blur-1+grey`. They act on the published pictures at their own size, before the
trainer's resizing. Greyscale changes what the model can see, so it is applied at test time too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unseg import degrade
from unseg.utils.errors import UserError

NO_DEFENCE = "none"


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


def parse_defence(text: str) -> tuple[tuple[str, float], ...]:
    """The operations that a written defence names; none for "none".

    Raises:
        UserError: unknown name, or a value that is missing, no number or out of range.
    """
    if text == NO_DEFENCE:
        return ()
    return tuple(_parse_one(part, text) for part in text.split("+"))


def _parse_one(part: str, text: str) -> tuple[str, float]:
    name, _, written = part.partition("-")
    if name not in DEFENCES:
        known = ", ".join(DEFENCES)
        raise UserError(f"defence {text!r}: unknown {name!r}; known are none, {known}")
    entry = DEFENCES[name]
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
    return name, value


def apply_defence(image: Tensor, text: str, *, at_test: bool = False) -> Tensor:
    """Pictures after a written defence.

    Args:
        image: (B, 3, H, W) float in [0, 1], at the pictures' own size.
        text: for example "none", "jpeg-75", "blur-1+grey".
        at_test: only those operations that test pictures go through as well.
    """
    for name, value in parse_defence(text):
        entry = DEFENCES[name]
        if entry.at_test or not at_test:
            image = entry.apply(image, value)
    return image
