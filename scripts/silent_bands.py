"""Where pictures are silent: how far noise stands out of them, by colour and by size of cell.

python scripts/silent_bands.py OUT CONFIG [key=value ...]

CONFIG is a file of configs/generate/ with its overrides; its list should be training pictures. For
each direction of colour and each cell size, a chequerboard of one grey level is added to every
picture (cut to a square) and goes the way of a trainer: saved as it is or as JPEG, reduced to a
frame, scaled by a factor. *Loudness* is what is left of the level, over the picture's own deviation
in the same band: the contrast of neighbouring cells, projected on the direction. It says how many
levels of budget make the noise as strong as the picture there. Written: OUT.md, OUT.png.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.data.annotations import build_source
from unseg.degrade import jpeg
from unseg.io.decode import read_rgb
from unseg.io.files import atomic_write_bytes
from unseg.noise import COLOURS, Carrier, upsample_noise
from unseg.utils.errors import UserError

DIRECTIONS = ("luma", "yellow", "blue", "opponent")
CELLS = (128, 64, 48, 32, 24, 16, 8)
"""Cells along the side of a picture."""
CODECS = (None, 90, 75, 50)
FRAMES = (64, 128, 256)
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Sizes that a trainer draws, of the frame."""
LEVEL = 8
"""Strength of the probe in grey levels; loudness is stated for one."""
PICTURES = 32


def trainer_s_view(image: Tensor, frame: int, factor: float) -> Tensor:
    """(1, 3, S, S) as a victim sees it: reduced smoothly to the frame, then scaled as augmented."""
    image = F.interpolate(image, (frame, frame), mode="bilinear", antialias=True)
    side = round(frame * factor)
    return F.interpolate(image, (side, side), mode="bilinear") if side != frame else image


def views(image: Tensor) -> dict[tuple, Tensor]:
    """(codec, frame, factor) -> what a victim sees of a picture."""
    published = {codec: image if codec is None else jpeg(image, codec) for codec in CODECS}
    return {
        (codec, frame, factor): trainer_s_view(published[codec], frame, factor)
        for codec, frame, factor in itertools.product(CODECS, FRAMES, FACTORS)
    }


def band(image: Tensor, direction: Tensor, checks: Tensor) -> Tensor:
    """Coefficient of the chequerboard in each 2 x 2 cells, in grey levels.

    Args:
        image: (1, 3, S, S) in [0, 1].
        direction: (3,) signs.
        checks: (1, 1, n, n) of -1 and 1.
    """
    height, width = image.shape[-2:]
    pattern = upsample_noise(checks, (height, width), enlarge="cosine")
    along = torch.einsum("c,bchw->bhw", direction, image)[:, None] / direction.abs().sum()
    windows = checks.shape[-1] // 2

    def mean(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, windows)

    covariance = mean(along * pattern) - mean(along) * mean(pattern)
    return 255 * covariance / (mean(pattern**2) - mean(pattern) ** 2).clamp(min=1e-3)


def measure(paths: list[Path]) -> dict[tuple, float]:
    """(direction, cells, codec, frame, factor) -> loudness of one grey level."""
    left: dict[tuple, list[float]] = {}
    own: dict[tuple, list[float]] = {}
    for path in paths:
        pixels = read_rgb(path)
        side = min(pixels.shape[:2])
        image = torch.from_numpy(pixels[:side, :side].copy()).permute(2, 0, 1)[None] / 255
        clean = views(image)
        for name, cells in itertools.product(DIRECTIONS, CELLS):
            carrier = Carrier.parse(f"{name}, sharp")
            direction = torch.tensor(COLOURS[name]).float()
            checks = carrier.checks(cells)
            noise = upsample_noise(carrier.noise(checks), (side, side), enlarge="sharp")
            probed = torch.round((image + LEVEL / 255 * noise).clamp(0, 1) * 255) / 255
            for view, seen in views(probed).items():
                before, after = (band(x, direction, checks) for x in (clean[view], seen))
                key = (name, cells, *view)
                left.setdefault(key, []).append(float((after - before).mean()) / LEVEL)
                own.setdefault(key, []).append(float(before.square().mean()))
    # Cells below a pixel leave nothing in either.
    return {key: np.mean(left[key]) / np.sqrt(max(float(np.mean(own[key])), 1e-9)) for key in left}


def table(loudness: dict[tuple, float], count: int) -> str:
    """Markdown: the least loudness over a trainer's sizes, for each codec and frame."""
    lines = [
        f"Loudness of one grey level, least over sizes {FACTORS[0]:g} to {FACTORS[-1]:g} "
        f"({count} training pictures). More is a better lure.",
        "",
    ]
    columns = list(itertools.product(CODECS, FRAMES))
    heads = [f"{'as is' if c is None else f'JPEG {c}'}, {f} px" for c, f in columns]
    lines += ["| colour | cells | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for name, cells in itertools.product(DIRECTIONS, CELLS):
        values = [min(loudness[name, cells, c, f, s] for s in FACTORS) for c, f in columns]
        lines.append(f"| {name} | 1/{cells} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def plot(loudness: dict[tuple, float], path: Path) -> None:
    """A panel a codec and frame: loudness against cell size, a line a colour."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(FRAMES), len(CODECS), figsize=(12, 7), sharex=True, sharey=True
    )
    colours = {"luma": "black", "yellow": "goldenrod", "blue": "royalblue", "opponent": "magenta"}
    for row, frame in enumerate(FRAMES):
        for column, codec in enumerate(CODECS):
            axis = axes[row][column]
            for name in DIRECTIONS:
                worst = [
                    min(loudness[name, cells, codec, frame, s] for s in FACTORS) for cells in CELLS
                ]
                axis.plot(CELLS, worst, "o-", ms=3, color=colours[name], label=name)
            axis.set_xscale("log", base=2)
            axis.set_xticks(CELLS, [f"1/{c}" for c in CELLS], fontsize=6)
            axis.set_title(f"{'as is' if codec is None else f'JPEG {codec}'}, {frame} px", size=8)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("cell, as a share of the side")
    figure.supylabel("loudness of one grey level, least over sizes")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> int:
    """Write the table and the plot."""
    if len(argv) < 2:
        usage = "usage: python scripts/silent_bands.py OUT CONFIG [key=value ...]"
        print(usage, file=sys.stderr)
        return 2
    out, config_path, *overrides = argv
    try:
        config = load_config(GenerateConfig, config_path, overrides)
        items = build_source(config.data).items()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    step = max(1, len(items) // PICTURES)
    paths = [item.image_path for item in items[::step]][:PICTURES]
    loudness = measure(paths)
    text = table(loudness, len(paths))
    print(text)
    atomic_write_bytes(f"{out}.md", text.encode())
    plot(loudness, Path(f"{out}.png"))
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main(sys.argv[1:]))
