"""Take the screenshots of docs/USAGE.md of the page, on a photograph.

    python tests/page_screenshots.py GENERATOR [FOLDER]

GENERATOR is a name or a weight file; FOLDER (docs/images) gets page_wide.jpg and page_narrow.jpg.
Needs chromium, playwright, scikit-image and the extra `demo`. Takes about half a minute of CPU
time. The photograph is scikit-image's `coffee` (CC0, Rachel Michetti, courtesy of Pikolo Espresso
Bar).
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from browser_cases import started_browser
from page_cases import served
from page_visitor import drag, load, open_page, press, protect
from PIL import Image
from skimage import data

from unseg.commands.demo import prove_pictures
from unseg.page.proving import ProofOffer
from unseg.page.strength import first_strength
from unseg.protection.api import load_generator
from unseg.victims.grid.prove import COST, FEWEST_PICTURES

CENTRE, HALF_AXES = (0.46, 0.52), (0.31, 0.42)
"""Of the saucer, as parts of the photograph's width and height, less the brush's radius."""
BRUSH = [
    (
        CENTRE[0] + part * HALF_AXES[0] * math.cos(angle / 3),
        CENTRE[1] + part * HALF_AXES[1] * math.sin(angle / 3),
    )
    for part in (1, 0.75, 0.5, 0.25, 0)
    for angle in range(20)
]
"""Rings from the saucer's edge to its middle."""


def main() -> None:
    options = {
        "generator": load_generator(sys.argv[1], "cpu"),
        "strength": first_strength(sys.argv[1]),
        "offer": ProofOffer(prove_pictures, fewest=FEWEST_PICTURES, cost=COST),
    }
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        photograph = Path(name) / "coffee.png"
        Image.fromarray(data.coffee()).save(photograph)
        with (
            served(Path(name) / "page", **options) as server,
            started_browser() as browser,
        ):
            for kind, width in (("wide", 1200), ("narrow", 400)):
                context = browser.new_context(viewport={"width": width, "height": 850})
                page = open_page(context, server.url)
                _use(page, photograph)
                shot: dict[str, Any] = {}
                if kind == "narrow":
                    step = page.locator(".unseg-step", has_text="Mark").last.bounding_box()
                    above = page.evaluate("window.scrollY")
                    shot = {"x": 0, "y": above + step["y"] - 16, "width": width, "height": 1200}
                png = page.screenshot(full_page=True, clip=shot or None)
                _save(png, target / f"page_{kind}.jpg")
                context.close()


def _use(page: Any, photograph: Path) -> None:
    """Brush the saucer and protect the picture."""
    load(page, photograph)
    press(page, "Brush")
    drag(page, *BRUSH)
    page.get_by_text("what you brushed").wait_for()
    protect(page)
    page.wait_for_selector(".unseg-noise[src^=data]")
    page.mouse.move(5, 5)
    page.wait_for_timeout(1500)  # until nothing fades or moves any more


def _save(png: bytes, path: Path) -> None:
    """As a JPEG: a fraction of the bytes of the PNG."""
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=88, subsampling=0)


if __name__ == "__main__":
    main()
