"""What every method is handed, offers and states; what those that go by classes have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unseg.noise import GREY_LEVELS
from unseg.protection.methods.noise_key import NoiseKey
from unseg.types import VOID_CLASS

NoiseSource = Literal["own", "partner", "none"]


_STRIP = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Pixels of a strip: on a CPU few enough for its cache; a GPU gains by large ones."""

_ROUNDS = 12
_CLOSE = 1e-3  # of the root mean square: 0.01 dB


@dataclass(frozen=True)
class Canvas:
    """One image, ready to be protected.

    Attributes:
        key: the image's name in its data set, or what stands for it under a secret (`NoiseKey`);
            randomness derives from it.
        image: (1, C, H, W) float in [0, 1], C = 1 for grey pictures, else 3.
        region: (1, 1, H, W) float, 1 inside the protected region.
        noise: (1, 3, n, n) in [-1, 1] on the grid of the square of side max(H, W), or None for
            methods whose `noise_from` is "none".
        classes: (1, 1, H, W) integer class of each pixel, `VOID_CLASS` where there is none; None
            but for methods with `needs_classes`.
        start: where this is a strip of an image (`Method.by_rows`), its first row there.
        height: of the whole image; None: this is the whole one.
    """

    key: str
    image: Tensor
    region: Tensor
    noise: Tensor | None = None
    classes: Tensor | None = None
    start: int = 0
    height: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the whole image."""
        rows, width = self.image.shape[-2:]
        return (rows if self.height is None else self.height, width)

    @property
    def rows(self) -> tuple[int, int]:
        """First and last (exclusive) row in the whole image."""
        return (self.start, self.start + self.image.shape[-2])


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What methods may depend on. Names are those of the configuration's keys.

    Attributes:
        epsilon: bound inside the region, in 8-bit grey levels.
        epsilon_bg: bound outside.
        seed: of all randomness.
        grid: side of the noise grid of the sign methods.
        tile: side of the piece of signs that is repeated, in cells of the grid.
        carrier: colours and scales of the noise, and how it is enlarged (`unseg.noise.Carrier`).
        quality: JPEG quality, 1 to 100.
        psnr: in dB, what methods without a bound are brought to; None: their own budget.
        patch: side of the pieces that are filled one by one; None: the whole image is one.
        classes: those of the label map, or two: region and rest.
        key: a secret that the noise depends on, or None.
    """

    epsilon: float = 8
    epsilon_bg: float = 2
    seed: int = 42
    grid: int = 256
    tile: int = 4
    carrier: str = "rgb"
    quality: int = 95
    psnr: float | None = None
    patch: int | None = None
    classes: Literal["label", "region"] = "label"
    key: NoiseKey | None = None


def budget_outside(given: float | None, model: Any) -> float:
    """The bound outside of the region: what is given, else the model's own.

    A `Pattern` has one; for all else it is the paper's, 2.
    """
    own: float = getattr(model, "epsilon_bg", MethodOptions.epsilon_bg)
    return own if given is None else given


class Method(ABC):
    """What changes an image, and all that the rest of the package must know about it.

    A new method is one class of this kind and one line in `METHODS`; nothing else names it.

    Attributes:
        title: what it does, in one line.
        noise_from: whose forward pass it needs: the image's own, another image's, or none.
        needs_classes: whether it goes by the label map rather than by the region alone.
        has_budget: whether epsilon bounds the change of every pixel.
        by_rows: whether a strip of an image becomes what it is in the whole one, so that a large
            image can be made strip by strip.
        takes_key: whether its noise may depend on a secret (`noise.key`).
        reads: keys of a generation's configuration that it depends on, beside the budget and
            `run.seed`. Their values are its `settings`.
    """

    title: ClassVar[str]
    noise_from: ClassVar[NoiseSource] = "none"
    needs_classes: ClassVar[bool] = False
    has_budget: ClassVar[bool] = True
    by_rows: ClassVar[bool] = False
    takes_key: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: MethodOptions) -> None:
        self.options = options

    @abstractmethod
    def __call__(self, canvas: Canvas) -> Tensor:
        """The protected image before rounding, (1, C, H, W) float in [0, 1]."""

    def shared_noise(
        self, key: str, noise: Tensor | None, *, size: tuple[int, int], channels: int
    ) -> Tensor | None:
        """The `Canvas.noise` of all strips of one image, made once.

        Args:
            key: the image's name.
            noise: (1, 3, n, n) that was made for it, or None.
            size: (H, W) of the image.
            channels: of the image, 1 or 3.
        """
        del key, size, channels
        return noise

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Largest change (inside, outside) in 8-bit levels, or None where it has no budget."""
        return (self.options.epsilon, self.options.epsilon_bg) if self.has_budget else None

    @property
    def settings(self) -> dict[str, Any]:
        """Its own part of what decides how a picture looks: a value for each key of `reads`."""
        values = {key: getattr(self.options, key.rpartition(".")[2]) for key in self.reads}
        if self.takes_key and self.options.key is not None:
            values["noise.key"] = self.options.key.fingerprint
        return values

    @classmethod
    def needs_generator(cls, *, has_grid: bool) -> bool:
        """Whether it needs a generator, for its noise or for the size of its grid.

        Args:
            has_grid: `noise.grid` is set.
        """
        return cls.noise_from != "none" or ("noise.grid" in cls.reads and not has_grid)


class ByClass(Method):
    """A method that changes the pixels of each class in a way of its own.

    Background is a class, void is not (docs/METHOD.md, "6. Evaluation"). There is no bound on a
    pixel's change: what a picture changed by is measured.
    """

    needs_classes = True
    has_budget = False
    reads: ClassVar[tuple[str, ...]] = ("noise.psnr", "noise.classes")
    may_exceed = True
    """Whether matching a PSNR may enlarge the change."""

    def __call__(self, canvas: Canvas) -> Tensor:
        """Each class's pixels from its own whole picture, then clipped."""
        changed = composite(canvas, lambda label: self.of_class(canvas, label))
        if self.options.psnr is None:
            return changed.clamp(0, 1)
        return matched(canvas.image, changed, psnr=self.options.psnr, may_exceed=self.may_exceed)

    def of_class(self, canvas: Canvas, label: int) -> Tensor:
        """(1, C, H, W): the whole image as if every pixel were of that class, not clipped."""
        raise NotImplementedError


def strips(height: int, width: int, *, device: torch.device) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) row of each strip of an image that is made on that device."""
    step = max(_STRIP.get(device.type, _STRIP["cuda"]) // width, 1)
    for first in range(0, height, step):
        yield first, min(first + step, height)


def composite(canvas: Canvas, of_class: Callable[[int], Tensor]) -> Tensor:
    """One picture from those of the classes that are present; void pixels stay as they are."""
    assert canvas.classes is not None
    result = canvas.image.clone()
    for label in torch.unique(canvas.classes).tolist():
        if label != VOID_CLASS:
            result = torch.where(canvas.classes == label, of_class(label), result)
    return result


def matched(image: Tensor, changed: Tensor, *, psnr: float, may_exceed: bool = True) -> Tensor:
    """`clip(image + s * (changed - image))` with the s that gives the wanted PSNR.

    Args:
        image: (1, C, H, W) float in [0, 1].
        changed: the same, not clipped.
        psnr: in dB, over all pixels and channels.
        may_exceed: s may be larger than 1; else it interpolates between the two.

    Returns:
        (1, C, H, W) float in [0, 1]. Where clipping (or `may_exceed`) leaves no such s, as close
        as it gets.
    """
    change = changed - image
    wanted = 10 ** (-psnr / 20)
    limit = math.inf if may_exceed else 1.0
    factor, reached, result = 1.0, _root_mean_square(change), image
    # Without clipping one round would do: the change is proportional to the factor.
    for _ in range(_ROUNDS):
        if reached == 0 or abs(reached - wanted) <= _CLOSE * wanted:
            break
        factor = min(factor * wanted / reached, limit)
        result = (image + factor * change).clamp(0, 1)
        reached = _root_mean_square(result - image)
    return result


def scaled_to(field: Tensor, rms: float) -> Tensor:
    """A field whose root mean square is `rms`, in 8-bit grey levels, as a change of [0, 1]."""
    return field * (rms / GREY_LEVELS / max(_root_mean_square(field), 1e-30))


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
