"""The data behind a leaderboard: one JSON file a row, and the card of a submitted entry."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]*")
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class BoardScore:
    """A score over seeds, in [0, 1]."""

    mean: float
    """Over the seeds."""
    std: float | None = None
    """Sample standard deviation; None: one seed, or not reported."""
    values: tuple[float, ...] = ()
    """By seed, in the order of `seeds`; empty: not reported."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """The mean is that of the values."""
        if self.values and abs(math.fsum(self.values) / len(self.values) - self.mean) > _ROUNDING:
            yield "mean", f"is not the mean of values {list(self.values)}"


@dataclass(frozen=True, kw_only=True)
class BoardData:
    """The data set of a row."""

    name: str
    """Short name."""
    task: str = "foreground"
    """What victims learn."""
    metric: str = "IoU"
    """What the score is."""
    floor: float = 0.0
    """Score of the trivial predictor."""
    num_train: int | None = None
    """Pictures learnt from."""
    num_validation: int | None = None
    """Published pictures that chose the epoch."""
    num_test: int | None = None
    """Clean pictures scored."""
    protect_size: int | None = None
    """Long side that pictures were reduced to before protection; None: their own."""


@dataclass(frozen=True, kw_only=True)
class BoardMethod:
    """What made the training pictures."""

    name: str
    """Short name; `clean` for none."""
    title: str
    """What tables call it."""
    kind: str | None = None
    """Method of `unseg generate`, `folder` for a submitted entry, None for reported rows."""
    epsilon: float | None = None
    """Bound inside the region in grey levels; None: no bound."""
    epsilon_bg: float | None = None
    """Bound outside."""
    psnr: float | None = None
    """Mean PSNR of the training pictures in dB."""
    rms: float | None = None
    """Mean root mean square change in grey levels."""
    linf: float | None = None
    """Largest change of any pixel in grey levels."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings, the generator's sha256 among them."""
    authors: str | None = None
    """Who made a submitted entry."""
    url: str | None = None
    """Where it is described."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Links lead to web pages."""
        yield from _url_problems(self.url)


@dataclass(frozen=True, kw_only=True)
class BoardVictim:
    """What was trained."""

    name: str
    """Short name."""
    title: str
    """What tables call it."""
    arch: str | None = None
    """Name in the registry of victims."""
    weights: str | None = None
    """Initial weights."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """How it was trained."""


@dataclass(frozen=True, kw_only=True)
class BoardRun:
    """Where a measured row comes from."""

    title: str
    """Of the evaluation."""
    command: str | None
    """What was typed; None: not recorded."""
    commit: str | None
    """Of the program, with `+` where files differed from it; None: not recorded."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions and machine."""
    device: str | None = None
    """cpu or a GPU."""
    seconds: float | None = None
    """Training and scoring, all seeds together."""


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One row of a leaderboard."""

    schema: Literal[1]
    """Version of this format."""
    id: str
    """Name of the file without its suffix, and the row's permanent link."""
    kind: Literal["measured", "reported"]
    """measured: by `unseg evaluate`; reported: taken from `source`."""
    data: BoardData
    """Learnt from."""
    method: BoardMethod
    """What the training pictures were made by."""
    victim: BoardVictim
    """Trained."""
    defence: str = "none"
    """What the trainer did against protection, as written in a grid."""
    clean_share: float = 0.0
    """Share of clean training pictures."""
    seeds: tuple[int, ...] = ()
    """Of the trainings."""
    selected: BoardScore
    """Clean-test score of the epoch chosen on published validation pictures."""
    peak: BoardScore | None = None
    """Of the epoch that is best on the clean test itself."""
    last: BoardScore | None = None
    """Of the last epoch."""
    own: BoardScore | None = None
    """Score of the selected epoch on protected test pictures."""
    clean: BoardScore | None = None
    """`selected` of the clean twin."""
    clean_peak: BoardScore | None = None
    """`peak` of the clean twin."""
    is_clean_defended: bool = True
    """Whether the clean twin trained under the same defence."""
    protection: float | None = None
    """(clean - selected) / (clean - floor), not clipped."""
    peak_protection: float | None = None
    """(clean_peak - peak) / (clean_peak - floor)."""
    marginal: float | None = None
    """Of a mixture: its score minus that of its clean part alone."""
    broken_by: tuple[str, ...] = ()
    """Defences of the same run that bring a protection of 0.5 or more below 0.5."""
    curve: tuple[tuple[float, float], ...] = ()
    """(epoch, mean clean-test score)."""
    run: BoardRun | None = None
    """Origin of a measured row."""
    source: str | None = None
    """Origin of a reported row."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each kind has its origin."""
        if not _NAME.fullmatch(self.id):
            yield "id", "names are letters, digits and . _ @ + -"
        if self.kind == "measured" and (self.run is None or not self.seeds):
            yield "run", "a measured row needs run and seeds"
        if self.kind == "reported" and not self.source:
            yield "source", "a reported row needs its source"
        if not math.isfinite(self.selected.mean):
            yield "selected.mean", "is no number"


@dataclass(frozen=True, kw_only=True)
class EntryCard:
    """`entry.json` beside the pictures of a submitted entry."""

    schema: Literal[1]
    """Version of this format."""
    title: str
    """What tables call it."""
    authors: str
    """Who made it."""
    url: str | None = None
    """Paper or code."""
    epsilon: float | None = None
    """Claimed bound inside the region in grey levels; None: no bound. It is measured anyway."""
    epsilon_bg: float | None = None
    """Claimed bound outside."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Whatever else identifies the entry."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Links lead to web pages."""
        yield from _url_problems(self.url)


def _url_problems(url: str | None) -> Iterator[tuple[str, str]]:
    if url is not None and not url.startswith(("https://", "http://")):
        yield "url", "must begin with https:// or http://"
