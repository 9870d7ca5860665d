"""What a report is made of: words, tables, figures; and what it calls methods and victims."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from unseg.config.evaluate import CLEAN, EvaluateConfig
from unseg.victims.grid.cells import has_budget
from unseg.victims.networks.registry import ARCHITECTURES
from unseg.victims.report.aggregate import Key, Spread
from unseg.victims.report.entries import entry_card
from unseg.victims.report.heat import HeatMap

NOTHING = "–"


@dataclass(frozen=True)
class Text:
    """A paragraph, or a smaller heading."""

    text: str
    kind: Literal["text", "heading"] = "text"

    def markdown(self) -> str:
        """As Markdown."""
        return f"### {self.text}" if self.kind == "heading" else self.text


@dataclass(frozen=True)
class Table:
    """A table; the first `num_text` columns hold words."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    num_text: int
    kind: str = "table"

    def markdown(self) -> str:
        """As Markdown."""
        rule = ["---" if i < self.num_text else "---:" for i in range(len(self.header))]
        return "\n".join("| " + " | ".join(line) + " |" for line in (self.header, rule, *self.rows))


@dataclass(frozen=True)
class Figure:
    """A drawing as PNG bytes."""

    name: str
    alt: str
    data: bytes
    kind: str = "figure"

    @property
    def base64(self) -> str:
        """For the page."""
        return base64.b64encode(self.data).decode()

    def markdown(self) -> str:
        """As Markdown, beside the file."""
        return f"![{self.alt}](figures/{self.name}.png)"


Part = Text | Table | Figure | HeatMap
"""What stands in a section."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    heading: str
    parts: Sequence[Part]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells for a terminal, each column as wide as its widest cell."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ("  ".join(f"{v:<{w}}" for v, w in zip(line, widths, strict=True)) for line in lines)
    return [line.rstrip() for line in padded]


def method_title(config: EvaluateConfig, key: Key, with_share: bool = True) -> str:
    """What tables call the training pictures of a row."""
    if key.is_twin:
        return f"clean, {100 * key.clean_share:g} % of the pictures"
    if key.method == CLEAN:
        return CLEAN
    card = entry_card(config.methods[key.method])
    title = config.methods[key.method].title or (card.title if card else key.method)
    if card is not None:
        bounds = [f"{v:g}" for v in (card.epsilon, card.epsilon_bg) if v is not None]
        title += f" {'/'.join(bounds)}".rstrip()
    elif has_budget(config.methods[key.method]):
        title += f" {key.epsilon:g}/{key.epsilon_bg:g}"
    elif "noise.psnr" in config.methods[key.method].options:
        title += f" at {config.methods[key.method].options['noise.psnr']:g} dB"
    if key.clean_share and with_share:
        title += f" + {100 * key.clean_share:g} % clean"
    return title


def budget_title(config: EvaluateConfig, method: str, epsilon: float, epsilon_bg: float) -> str:
    """Bounds of a method, where it has some."""
    return f"{epsilon:g} / {epsilon_bg:g}" if has_budget(config.methods[method]) else "its own"


def victim_title(config: EvaluateConfig, name: str) -> str:
    """What tables call a victim."""
    victim = config.victims[name]
    title = victim.title or ARCHITECTURES[victim.arch].title + (", tiny" if victim.tiny else "")
    others = [v for n, v in config.victims.items() if n != name and v.arch == victim.arch]
    return f"{title} [{name}]" if others and victim.title is None else title


def percent(value: Spread | None) -> str:
    """For a cell of a table."""
    return NOTHING if value is None else value.percent()


def number(value: float | None, show: Callable[[float], str]) -> str:
    """For a cell of a table; `show` writes it."""
    return NOTHING if value is None or math.isnan(value) else show(value)
