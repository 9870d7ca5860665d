"""Take the screenshots of docs/USAGE.md of the page, on a scene of `unseg.data.synthetic`.

    python tests/page_screenshots.py GENERATOR [FOLDER]

GENERATOR is a name or a weight file; FOLDER (docs/images) gets page_wide.png and page_narrow.png.
Needs chromium, playwright and the extra `demo`. Takes about half a minute of CPU time.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from page_cases import served
from PIL import Image
from playwright.sync_api import sync_playwright

from unseg.data.synthetic import Synthetic
from unseg.protection.api import load_generator

BRUSH = ((0.31, 0.32), (0.38, 0.26), (0.46, 0.24), (0.56, 0.3), (0.68, 0.42), (0.56, 0.44))
BRUSH += ((0.44, 0.38), (0.35, 0.33), (0.46, 0.3), (0.6, 0.38))
"""Over the object of the scene, as parts of its width and height."""


def main() -> None:
    generator = load_generator(sys.argv[1], "cpu")
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scene = Path(name) / "scene.png"
        Image.fromarray(Synthetic(8, image_size=960)[7].image[100:820]).save(scene)
        with (
            served(Path(name) / "page", generator=generator) as server,
            sync_playwright() as player,
        ):
            browser = player.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for kind, width in (("wide", 1200), ("narrow", 400)):
                page = browser.new_page(viewport={"width": width, "height": 850})
                page.set_default_timeout(120_000)
                page.goto(server.url)
                _use(page, scene)
                shot: dict[str, Any] = {}
                if kind == "narrow":
                    step = page.locator(".unseg-step", has_text="Mark").last.bounding_box()
                    above = page.evaluate("window.scrollY")
                    shot = {"x": 0, "y": above + step["y"] - 16, "width": width, "height": 900}
                png = page.screenshot(full_page=True, clip=shot or None)
                _save(png, target / f"page_{kind}.png")
                page.close()
            browser.close()


def _use(page: Any, scene: Path) -> None:
    """Brush the object and protect the picture."""
    page.get_by_role("button", name="Protect this picture").wait_for()
    page.wait_for_function("document.querySelector('.unseg-hint')?.textContent")
    page.set_input_files("input[type=file]", str(scene))
    page.wait_for_selector(".unseg-picture[src^=data]")
    page.get_by_role("button", name="Brush", exact=True).click()
    canvas = page.locator(".unseg-view canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for i, (x, y) in enumerate(BRUSH):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        if i == 0:
            page.mouse.down()
    page.mouse.up()
    page.get_by_text("what you brushed").wait_for()
    page.get_by_role("button", name="Protect this picture").click()
    page.get_by_text("Measured in the written file").wait_for()
    page.wait_for_selector(".unseg-noise[src^=data]")
    page.mouse.move(5, 5)
    page.wait_for_timeout(1500)  # until nothing fades or moves any more


def _save(png: bytes, path: Path) -> None:
    """With 256 colours: a third of the bytes, and no difference that one sees."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
