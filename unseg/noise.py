"""From unit noise to a protected image: the one composition of training and generation."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_LEVELS = 255
"""Budgets are given in 8-bit grey levels (`epsilon=8` means 8/255) and converted here alone."""

Enlarge = Literal["bilinear", "cosine", "sharp"]
"""From noise cells to pixels: linear ramps between cell centres (the paper's), ramps of a cosine,
which stay longer at their ends, or none: every pixel has its cell's value. Ramps lose strength
where signs alternate, which is where a carrier is loudest."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "luma": (1, 1, 1),
    "opponent": (1, -1, 1),
}
"""Directions of colour that a band of noise may take: signs of red, green and blue. `opponent` is
green against magenta, in which neighbouring cells of photographs differ three times less than in
brightness (docs/METHOD.md, "5. Generation"). Red and green together hold 0.89 of brightness."""

_SHORT = {"rgb": "red + green + blue", "yellow_blue": "yellow + blue"}
_BAND = re.compile(r"(?:(?P<share>\d*\.?\d+) )?(?P<colour>[a-z]+)(?:/(?P<cells>\d+))?")


@dataclass(frozen=True)
class Band:
    """One field of noise in a carrier.

    Attributes:
        colour: key of `COLOURS`.
        share: of the budget, in (0, 1].
        cells: side of the band's cells, in cells of the noise grid.
    """

    colour: str
    share: float = 1.0
    cells: int = 1

    def __str__(self) -> str:
        share = "" if self.share == 1 else f"{self.share:g} "
        return f"{share}{self.colour}" + ("" if self.cells == 1 else f"/{self.cells}")


@dataclass(frozen=True)
class Carrier:
    """Which colours and scales carry noise, and how its cells become pixels.

    Noise is a sum of bands; the shares of all bands that touch a colour add up to at most 1, so
    that the sum keeps the budget. DEVIATION: the paper's carrier is `rgb`, one full field a colour,
    enlarged bilinearly; the others are ours.

    Attributes:
        bands: one field each.
        enlarge: from cells to pixels.
    """

    bands: tuple[Band, ...]
    enlarge: Enlarge = "bilinear"

    @classmethod
    def parse(cls, text: str) -> Carrier:
        """The carrier that a text such as `0.75 luma/2 + 0.25 opponent, sharp` names.

        A band is an optional share, a colour, and optionally `/` with the side of its cells; the
        word after the comma is how cells are enlarged, `bilinear` where there is none. `rgb` is
        `red + green + blue`, `yellow_blue` is `yellow + blue`.

        Raises:
            ValueError: the text is malformed, or its bands exceed the budget.
        """
        written, _, enlarge = (part.strip() for part in text.partition(","))
        enlarge = enlarge or "bilinear"
        if enlarge not in get_args(Enlarge):
            raise ValueError(f"{enlarge!r}: cells are enlarged {', '.join(get_args(Enlarge))}")
        bands = []
        for part in _SHORT.get(written, written).split("+"):
            found = _BAND.fullmatch(part.strip())
            if found is None or found["colour"] not in COLOURS:
                known = ", ".join((*_SHORT, *COLOURS))
                raise ValueError(
                    f"{part.strip()!r} is no band of noise; write one as in 0.25 opponent/2, with "
                    f"one of {known}"
                )
            bands.append(
                Band(found["colour"], float(found["share"] or 1), int(found["cells"] or 1))
            )
        return cls(tuple(bands), cast(Enlarge, enlarge))

    def __post_init__(self) -> None:
        if any(band.cells < 1 or band.share <= 0 for band in self.bands):
            raise ValueError(f"{self}: shares must be above 0, and cells at least 1 wide")
        shares = (
            sum(band.share * abs(COLOURS[band.colour][c]) for band in self.bands) for c in range(3)
        )
        if max(shares) > 1 + 1e-6:
            raise ValueError(f"{self}: the shares of a colour add up to more than 1")

    def __str__(self) -> str:
        bands = " + ".join(map(str, self.bands))
        bands = next((short for short, whole in _SHORT.items() if whole == bands), bands)
        return bands if self.enlarge == "bilinear" else f"{bands}, {self.enlarge}"

    def matrix(self) -> Tensor:
        """(3, k) float32: what each of the k fields adds to red, green and blue."""
        columns = [band.share * torch.tensor(COLOURS[band.colour]) for band in self.bands]
        return torch.stack(columns, 1).float()

    def fields_of(self, noise: Tensor) -> Tensor:
        """The fields in three channels: in each colour direction, the mean over each band's cells.

        Args:
            noise: (B, 3, n, n), any range; n a multiple of every band's cells.

        Returns:
            (B, k, n, n), each field constant on its cells.
        """
        fields = []
        for band in self.bands:
            signs = COLOURS[band.colour]
            used = [c for c in range(3) if signs[c]]
            signed = noise[:, used] * noise.new_tensor([signs[c] for c in used]).view(1, -1, 1, 1)
            field = signed.mean(1, keepdim=True)
            if band.cells > 1:
                field = _repeated(F.avg_pool2d(field, band.cells), band.cells)
            fields.append(field)
        return torch.cat(fields, 1)

    def noise(self, fields: Tensor) -> Tensor:
        """Unit noise (B, 3, n, n) in [-1, 1] of fields (B, k, n, n) in [-1, 1]."""
        if str(self).startswith("rgb"):
            return fields  # a product with the identity, bit for bit
        return torch.einsum("ck,bkhw->bchw", self.matrix().to(fields), fields)

    def draw_signs(self, side: int, rng: torch.Generator) -> Tensor:
        """Fields (1, k, side, side) of -1 and 1, drawn anew for each cell of each band."""
        fields = []
        for band in self.bands:
            cells = -(-side // band.cells)
            signs = torch.randint(0, 2, (1, 1, cells, cells), generator=rng) * 2.0 - 1
            fields.append(_repeated(signs, band.cells)[..., :side, :side])
        return torch.cat(fields, 1)

    def checks(self, side: int) -> Tensor:
        """Fields (1, k, side, side) of signs that alternate from cell to cell of each band."""
        place = torch.arange(side)
        fields = []
        for band in self.bands:
            parity = place.div(band.cells, rounding_mode="floor")
            fields.append(1 - 2.0 * ((parity[:, None] + parity) % 2))
        return torch.stack(fields)[None]

    def grey(self, noise: Tensor) -> Tensor:
        """What grey pictures carry of noise (B, 3, H, W): (B, 1, H, W).

        The mean of the three colours; where colours oppose each other, which would cancel, what red
        carries, as brightness.
        """
        if all(sign >= 0 for band in self.bands for sign in COLOURS[band.colour]):
            return noise.mean(1, keepdim=True)
        return noise[:, :1]


def _repeated(field: Tensor, cells: int) -> Tensor:
    return field.repeat_interleave(cells, -1).repeat_interleave(cells, -2)


def without_means(noise: Tensor, cells: int) -> Tensor:
    """Noise of mean 0 in each colour of each square of `cells` x `cells`: texture alone.

    A shift of brightness or colour is the first thing that a generator finds, a poor lure (pictures
    differ by more) and a waste of the budget. DEVIATION: not in the paper.

    Args:
        noise: (B, C, H, W) in [-1, 1], both sides multiples of `cells`.
        cells: side of the squares.

    Returns:
        (B, C, H, W) in [-1, 1]: what of a square deviates from its mean m, over 1 + |m|, so that
        only noise of balanced signs reaches the bounds in every cell.
    """
    means = F.avg_pool2d(noise, cells).repeat_interleave(cells, -1).repeat_interleave(cells, -2)
    return (noise - means) / (1 + means.abs())


def upsample_noise(
    noise: Tensor,
    size: tuple[int, int],
    *,
    enlarge: Enlarge = "bilinear",
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """Noise at an image's own size.

    The generator sees the image padded at bottom and right to a square, so its noise grid spans
    that square: the result is that of upsampling to the side max(H, W) and cropping, but only what
    is kept is made.

    Args:
        noise: (B, C, n, n) in [-1, 1], the generator's grid; or (B, C, H, W), which stays.
        size: (H, W) of the image.
        enlarge: how cells become pixels.
        rows: first and last (exclusive) row of the image that is wanted; None: all.

    Returns:
        (B, C, H, W), same range; of `rows` alone where they are given.
    """
    height, width = size
    side = max(height, width)
    first, last = (0, height) if rows is None else rows
    if noise.shape[-2:] in ((side, side), size):
        return noise[..., first:last, :width]
    if enlarge == "bilinear":
        return _bilinear(noise, size, first, last)
    columns = _between_cells(noise, 0, width, side, axis=-1, is_sharp=enlarge == "sharp")
    return _between_cells(columns, first, last, side, axis=-2, is_sharp=enlarge == "sharp")


def _bilinear(noise: Tensor, size: tuple[int, int], first: int, last: int) -> Tensor:
    """Rows `first` to `last` of `F.interpolate(noise, (side, side))[..., :height, :width]`.

    The operator behind `F.interpolate` takes a scale beside the size, so that it makes a corner of
    the square bit for bit; the second row alone of two whose scale puts it at the wanted fraction
    between them is, bit for bit again, any other row.
    """
    cells, side, width = noise.shape[-1], max(size), size[1]
    scale = side / cells

    def corner(cell_rows: Tensor, count: int, row_scale: float) -> Tensor:
        # Outputs of up to 128 rows and columns go through a kernel that rounds in another order.
        # One more line where the operator, asked for as many as it gets, would copy them.
        columns = max(width, min(side, 129 - count))
        sizes = [count + (count == cell_rows.shape[-2]), columns + (columns == cells)]
        made = torch.ops.aten.upsample_bilinear2d.default(cell_rows, sizes, False, row_scale, scale)
        return cast(Tensor, made)[..., :count, :width]

    if first == 0:
        return corner(noise, max(last, min(side, 129 - side)), scale)[..., :last, :]
    # In double precision and then rounded, as a fused multiplication and addition does it.
    steps = torch.arange(first, last, dtype=torch.float64) + 0.5
    place = (steps * float(torch.tensor(cells / side)) - 0.5).float()
    if float(place[0]) < 1:  # the fraction of a number below 1 has too many bits for a scale
        return corner(noise, last, scale)[..., first:, :]
    above = place.long()
    fractions = (place - above).double()
    made = []
    for row, fraction in zip(above.tolist(), fractions.tolist(), strict=True):
        pair = noise[..., row : row + 2, :]
        pair = pair if row + 1 < cells else pair.expand(-1, -1, 2, -1)
        made.append(corner(pair, 1, 1 / (2 * fraction + 1)))
    return torch.cat(made, -2)


def _between_cells(
    noise: Tensor, first: int, last: int, side: int, *, axis: int, is_sharp: bool
) -> Tensor:
    """`first` to `last` of `side` positions along an axis: the nearest cell, or cosine ramps."""
    cells = noise.shape[axis]
    place = (torch.arange(first, last, device=noise.device) + 0.5) * (cells / side)
    if is_sharp:
        return noise.index_select(axis, place.long().clamp(max=cells - 1))
    left = torch.floor(place - 0.5)
    weight = (1 - torch.cos(math.pi * (place - 0.5 - left))) / 2
    weight = weight.to(noise.dtype).view(-1, *[1] * (-axis - 1))
    before, after = (
        noise.index_select(axis, index.long().clamp(0, cells - 1)) for index in (left, left + 1)
    )
    return before + (after - before) * weight


def noise_budget(region: Tensor, *, epsilon: float, epsilon_bg: float) -> Tensor:
    """Per-pixel bound on the perturbation (paper, section 3.3; docs/METHOD.md, "4. Training").

    Epsilon generalization (EG) is the choice of two budgets: training bounds the noise by
    `noise.epsilon` (1) and `noise.epsilon_bg` (0.25) of its configuration, generation by 8 and 2.
    The generator's noise is the same unit noise; only this bound differs.

    Args:
        region: (B, 1, H, W) in [0, 1], 1 inside the protected object.
        epsilon: bound inside, in 8-bit grey levels.
        epsilon_bg: bound outside, in 8-bit grey levels.

    Returns:
        (B, 1, H, W) in units of an image in [0, 1].
    """
    return (epsilon * region + epsilon_bg * (1 - region)) / GREY_LEVELS


def compose(
    image: Tensor,
    noise: Tensor,
    *,
    region: Tensor,
    epsilon: float = 8,
    epsilon_bg: float = 2,
    enlarge: Enlarge = "bilinear",
) -> Tensor:
    """Protected image: `clip(image + budget * noise, 0, 1)`, unquantised.

    Args:
        image: (B, C, H, W) float in [0, 1].
        noise: (B, C, n, n) in [-1, 1], on the grid of the square of side max(H, W).
        region: (B, 1, H, W) in [0, 1], 1 inside the protected object.
        epsilon: bound inside the region, in 8-bit grey levels (8 means 8/255).
        epsilon_bg: bound outside, in 8-bit grey levels.
        enlarge: how noise cells become pixels.

    Returns:
        (B, C, H, W) float in [0, 1]. The last step before a file is `torch.round(255 * protected)`.

    Raises:
        ValueError: the region has another height or width than the image.
    """
    if region.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"region is {tuple(region.shape[-2:])} (H, W) but the image is "
            f"{tuple(image.shape[-2:])}; bring both to one frame"
        )
    height, width = image.shape[-2:]
    enlarged = upsample_noise(noise, (height, width), enlarge=enlarge)
    return add_noise(image, enlarged, region=region, epsilon=epsilon, epsilon_bg=epsilon_bg)


def add_noise(
    image: Tensor, noise: Tensor, *, region: Tensor, epsilon: float, epsilon_bg: float
) -> Tensor:
    """`compose` with noise (B, C, H, W) of the image's own size."""
    budget = noise_budget(region, epsilon=epsilon, epsilon_bg=epsilon_bg)
    return torch.clamp(image + budget * noise, 0, 1)
