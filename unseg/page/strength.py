"""Where the strength of a generator starts, and what is known of it there (docs/RESULTS.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Strength:
    """A budget to start from.

    Attributes:
        epsilon: inside the mask, in grey levels.
        epsilon_bg: outside.
        note: what was measured there, in one sentence.
    """

    epsilon: int
    epsilon_bg: int
    note: str


UNMEASURED = Strength(8, 2, "What this generator protects was not measured: prove it.")
"""Of a weight file that we do not know."""

_MEASURED = {
    "pattern": Strength(
        4,
        0,
        "4 and 0 is the weakest that was measured with this pattern: victims that vary sizes lost "
        "93 % of their score on polyps and 92 % on VOC's objects (one seed), but on people and "
        "horses only 41 % and 6 %, and 70 % and 35 % at 8 and 0.",
    ),
    "default": Strength(
        8,
        2,
        "8 and 2 is the weakest that was measured at which victims lost at least 90 % of their "
        "score on polyps; where they vary sizes they lost 85 %, on people and horses 19 % and 3 %.",
    ),
    "robust": Strength(
        8,
        2,
        "8 and 2 is the weakest that was measured at which victims lost at least 90 % of their "
        "score on polyps; on people they lost 44 %.",
    ),
}
"""By the name of embedded weights: the smallest measured budget that protects."""


def first_strength(generator: str) -> Strength:
    """Where the strength of a generator starts; `generator` is its name or its file."""
    return _MEASURED.get(generator, UNMEASURED)
