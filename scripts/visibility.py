"""How visible is each kind of noise? Measured on the photographs of the README, and side by side.

python scripts/visibility.py OUT [GENERATOR ...]      (needs the extra `eval`)

Written are OUT.md, a table of means over the photographs (PSNR, SSIM, and the colour difference
CIEDE2000 after the eye's blur at 60 cm from a screen of 96 dpi), and OUT.jpg, a detail of the cat
enlarged four times. GENERATOR is a name of `unseg weights list` or a file; `default` and `robust`
are always there. Photographs and credits: scripts/readme_picture.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import cv2
import numpy as np
import torch
from readme_picture import photographs

import unseg
from unseg.io.files import atomic_write_bytes
from unseg.metrics import psnr
from unseg.noise import Carrier, compose
from unseg.utils.errors import UserError
from unseg.victims.data.visibility import visibility

BUDGETS = ((8, 2), (8, 0), (4, 1), (4, 0), (2, 0.5), (2, 0))
SHEET_BUDGETS = ((8, 0), (4, 0), (2, 0))
CHECKS = (
    "64 opponent, sharp",
    "32 opponent, sharp",
    "24 opponent, sharp",
    "16 opponent, sharp",
    "24 opponent, cosine",
    "24 opponent",
    "24 luma, sharp",
)
"""Cells along the side, and the carrier of a chequerboard."""
SHOWN = ("checks 24 opponent, sharp", "checks 24 opponent, cosine")
"""Shown beside the generators."""
DETAIL = (slice(50, 125), slice(225, 335))
"""Of the cat, rows and columns: fur, an eye, and the plain wall behind."""

Protect = Callable[[np.ndarray, np.ndarray, tuple[float, float]], np.ndarray]


def with_checks(text: str) -> Protect:
    """Protect by a chequerboard on a carrier."""
    cells, _, written = text.partition(" ")
    carrier = Carrier.parse(written)
    noise = carrier.noise(carrier.checks(int(cells)))

    def protect(photo: np.ndarray, mask: np.ndarray, budget: tuple[float, float]) -> np.ndarray:
        changed = compose(
            torch.from_numpy(photo).permute(2, 0, 1)[None] / 255,
            noise,
            region=torch.from_numpy(mask > 127).float()[None, None],
            epsilon=budget[0],
            epsilon_bg=budget[1],
            enlarge=carrier.enlarge,
        )
        return torch.round(changed[0] * 255).byte().permute(1, 2, 0).numpy()

    return protect


def with_generator(name: str) -> Protect:
    """Protect by a generator."""
    generator = unseg.load_generator(name)

    def protect(photo: np.ndarray, mask: np.ndarray, budget: tuple[float, float]) -> np.ndarray:
        epsilon, epsilon_bg = budget
        protected = unseg.protect(
            photo, mask=mask, generator=generator, epsilon=epsilon, epsilon_bg=epsilon_bg
        )
        return np.asarray(protected.image)

    return protect


def table_row(name: str, protect: Protect, budget: tuple[float, float]) -> str:
    """One line of the table."""
    figures = []
    for photo, mask in photographs():
        changed = protect(photo, mask, budget)
        decibels = psnr(*(torch.from_numpy(p)[None] / 255 for p in (photo, changed)))
        seen = visibility(photo, changed)
        figures.append((float(decibels), seen.ssim, seen.delta_e, seen.delta_e_99))
    decibels, ssim, mean, top = np.mean(figures, axis=0)
    epsilon, epsilon_bg = budget
    return (
        f"| {name} | {epsilon:g}/{epsilon_bg:g} "
        f"| {decibels:.1f} | {ssim:.3f} | {mean:.2f} | {top:.2f} |"
    )


def sheet(methods: dict[str, Protect]) -> np.ndarray:
    """(H, W, 3) uint8: a row a budget, a column a method, each detail four times as large."""
    photo, mask = photographs()[0]
    rows = []
    for budget in SHEET_BUDGETS:
        pictures = [photo, *(protect(photo, mask, budget) for protect in methods.values())]
        rows.append(np.concatenate([picture[DETAIL] for picture in pictures], axis=1))
    return np.concatenate(rows, axis=0).repeat(4, axis=0).repeat(4, axis=1)


def main(argv: list[str]) -> int:
    """Measure and draw."""
    if not argv:
        print("usage: python scripts/visibility.py OUT [GENERATOR ...]", file=sys.stderr)
        return 2
    out, *names = argv
    try:
        generators = {name: with_generator(name) for name in ("default", "robust", *names)}
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    methods = {**generators, **{f"checks {text}": with_checks(text) for text in CHECKS}}
    lines = [
        "| noise | budget | PSNR (dB) | SSIM | CIEDE2000 | 99th percentile |",
        "|---" * 6 + "|",
    ]
    for budget in BUDGETS:
        for name, protect in methods.items():
            lines.append(table_row(name, protect, budget))
            print(lines[-1], flush=True)
    atomic_write_bytes(f"{out}.md", ("\n".join(lines) + "\n").encode())
    shown = {name: methods[name] for name in (*generators, *SHOWN)}
    picture = cv2.cvtColor(sheet(shown), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    atomic_write_bytes(f"{out}.jpg", data.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
