"""What defences are made of: a published picture, what a trainer knows, entries of registries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from unseg.victims.data.tensor_set import IGNORED_LABEL

MAX_PICTURES = 2000
"""A defence that learns looks at so many published pictures at most; one at a time is in memory."""


@dataclass(frozen=True)
class PublishedPicture:
    """One training picture as its trainer has it.

    Attributes:
        image: (3, H, W) float32 in [0, 1], at the picture's own size.
        label: (H, W) uint8 classes, `IGNORED_LABEL` where there is none.
        key: the data set's own name of it.
    """

    image: Tensor
    label: Tensor
    key: str

    @property
    def inside(self) -> Tensor:
        """(1, H, W) bool: pixels of any class but the first, which is background."""
        return ((self.label != 0) & (self.label != IGNORED_LABEL))[None]


Defend = Callable[[PublishedPicture], Tensor]
"""A defence that is ready: a published picture -> (3, H, W) float in [0, 1]."""


@dataclass(frozen=True)
class DefendedPictures:
    """Published pictures after a defence, made again at each pass.

    Attributes:
        pictures: as they were published.
        defend: the defence.
    """

    pictures: Iterable[PublishedPicture]
    defend: Defend

    def __iter__(self) -> Iterator[PublishedPicture]:
        for picture in self.pictures:
            yield replace(picture, image=self.defend(picture))


@dataclass(frozen=True)
class Known:
    """What a trainer has when he makes a defence ready.

    Attributes:
        pictures: the published training pictures with their labels; may be passed over again.
        count: how many of them are looked at.
        seed: of the defence's own randomness.
        pairs: pictures of his own, clean, with what the public generator makes of each (3, H, W);
            None where there is no such generator or no such pictures.
        noise_again: what the public generator adds, (3, H, W), to a published picture that it gets
            once more; None where there is no such generator.
    """

    pictures: Iterable[PublishedPicture]
    count: int
    seed: int = 0
    pairs: Iterable[tuple[PublishedPicture, Tensor]] | None = None
    noise_again: Defend | None = None

    def some_pictures(self) -> Iterator[PublishedPicture]:
        """The first `count` of them."""
        return islice(iter(self.pictures), self.count)


@dataclass(frozen=True, kw_only=True)
class Defence:
    """What all entries of the registries say.

    Attributes:
        low: smallest accepted value.
        high: largest accepted value.
        default: the value where none is written; None means that one must be.
        is_whole: the value is a whole number.
    """

    low: float = 1
    high: float = 1
    default: float | None = None
    is_whole: bool = False


@dataclass(frozen=True, kw_only=True)
class PictureDefence(Defence):
    """One operation on pictures that needs the picture alone.

    Attributes:
        apply: (B, 3, H, W) float in [0, 1], the value, a CPU random generator -> the same shape.
        at_test: whether test pictures go through it as well.
        is_random: whether it draws.
    """

    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    at_test: bool = False
    is_random: bool = False


@dataclass(frozen=True, kw_only=True)
class LearntDefence(Defence):
    """One that is fitted to the published training pictures, and then acts on each of them.

    Attributes:
        fit: what the trainer knows and the value -> the defence, ready.
        assumes: what the trainer must have, in words; docs/EVALUATION.md says the same.
        needs_pairs: it learns from clean pictures and what the public generator makes of them.
        needs_generator: it runs the public generator, or learns from what it made.
        is_random: whether it draws.
    """

    fit: Callable[[Known, float], Defend]
    assumes: str
    needs_pairs: bool = False
    needs_generator: bool = False
    is_random: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingDefence(Defence):
    """A change of the training itself.

    Attributes:
        needs_pretrained: the victim must start from the weights of another training.
    """

    needs_pretrained: bool = False
