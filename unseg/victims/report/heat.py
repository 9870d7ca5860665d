"""Heat maps of protection: attack by defence, as coloured tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WEAK, _STRONG = (250, 243, 236), (29, 92, 84)
_DARK = 0.55
"""From this share on the background is dark and its text light."""


@dataclass(frozen=True)
class HeatCell:
    """A value with its colours.

    Attributes:
        text: what is shown.
        style: CSS of the cell; empty where there is no value.
        link: fragment of the page; None for none.
    """

    text: str
    style: str = ""
    link: str | None = None


@dataclass(frozen=True)
class HeatMap:
    """A coloured table; a part of a report.

    Attributes:
        corner: heading of the first column.
        columns: headings of the others.
        rows: (heading, a cell for each column).
    """

    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]
    kind: str = "heat"

    def markdown(self) -> str:
        """As Markdown, without its colours."""
        lines = [(self.corner, *self.columns), ("---", *["---:"] * len(self.columns))]
        lines += [(name, *(cell.text for cell in cells)) for name, cells in self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heat_cell(value: float | None, *, mark: str = "", link: str | None = None) -> HeatCell:
    """A protection as a cell: pale for none, dark for full; `mark` follows the number."""
    if value is None:
        return HeatCell("–")
    share = min(1.0, max(0.0, value))
    mixed = [round(a + (b - a) * share) for a, b in zip(_WEAK, _STRONG, strict=True)]
    text = "#fff" if share > _DARK else "#1c1c1c"
    return HeatCell(
        f"{value:z.2f}{mark}", f"background:#{bytes(mixed).hex()};color:{text}", link=link
    )
