"""The page in a real browser: upload, click, draw, protect, download; keys and narrow windows."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from page_cases import KINDS, LOADED, check_archive, make_pictures, served

from unseg.protect.picture import read_picture

pytest.importorskip("gradio", reason="gradio is missing: pip install -e .[demo]")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: pip install playwright"
)
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 90_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(NAMES)} is on the PATH")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Any]:
    with served(tmp_path_factory.mktemp("page") / "temporary") as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def open_window(browser, server) -> Iterator[Any]:
    """Opens windows; at the end every request of theirs must have stayed on this computer."""
    contexts, asked = [], []

    def open_one(width: int = 1200, height: int = 900) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        page.wait_for_selector("input[type=file]", state="attached")
        return page

    yield open_one
    for context in contexts:
        context.close()
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def load(page: Any, *paths: Path) -> None:
    page.set_input_files("input[type=file]", [str(path) for path in paths])
    page.wait_for_selector(".unseg-picture[src^=data]")


def mask_text(page: Any, words: str) -> None:
    page.get_by_text(words).first.wait_for()


def at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Window position of a point given as parts of the picture."""
    canvas = page.locator(".unseg-view canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page: Any, *path: tuple[float, float]) -> None:
    for i, place in enumerate(path):
        page.mouse.move(*at(page, *place))
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def protect(page: Any) -> None:
    press(page, "Protect this picture")
    page.get_by_text("Measured in the written file").wait_for()


def download(page: Any, name: str, folder: Path) -> Path:
    link = page.get_by_text(name)
    with page.expect_download() as started:
        link.click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def test_a_picture_is_marked_protected_and_downloaded(open_window, pictures, tmp_path):
    page = open_window()
    assert page.get_by_role("button", name="Protect this picture").is_disabled()
    load(page, pictures["plain.png"], pictures["notes.jpg"])
    page.get_by_text("notes.jpg: not a picture of PNG").wait_for()
    mask_text(page, "whole picture is protected")
    page.mouse.click(*at(page, 0.5, 0.5))
    mask_text(page, "made the mask from your points")
    press(page, "Clear marks")
    mask_text(page, "whole picture is protected")
    press(page, "Box")
    drag(page, (0.25, 0.25), (0.4, 0.4), (0.6, 0.7))
    mask_text(page, "the inside of your boxes")
    page.wait_for_function("!document.querySelector('.unseg-layer').hidden")
    press(page, "Brush")
    drag(page, (0.6, 0.5), (0.8, 0.5))
    mask_text(page, "corrected by your brush")
    page.get_by_text("PSNR ").first.wait_for()
    protect(page)
    path = download(page, "Download this result (PNG)", tmp_path)
    assert path.name == "plain.png"
    clean, written = read_picture(pictures["plain.png"]), read_picture(path)
    assert written.size == clean.size
    change = np.abs(written.pixels.astype(int) - clean.pixels).max(axis=2)
    height, width = clean.size
    assert (
        2
        < change[int(0.3 * height) : int(0.65 * height), int(0.3 * width) : int(0.55 * width)].max()
        <= 8
    )
    assert change[: int(0.2 * height)].max() <= 2
    archive = download(page, "Download all with manifest (zip)", tmp_path)
    assert set(zipfile.ZipFile(archive).namelist()) == {"plain.png", "manifest.jsonl", "README.txt"}
    page.wait_for_selector(".unseg-noise[src^=data]")


def test_every_kind_of_picture_is_protected_within_its_budget(open_window, pictures, tmp_path):
    page = open_window()
    load(page, *(pictures[name] for name in KINDS))
    for text in LOADED:
        page.get_by_text(text).wait_for()
    press(page, "Protect all pictures")
    page.get_by_text(
        "profile.png: 120 x 90 pixels, 8-bit colour with colour profile. Meas"
    ).wait_for()
    archive = download(page, "Download all with manifest (zip)", tmp_path)
    check_archive(archive, pictures, tmp_path / "all", budget=8)


def test_everything_can_be_done_with_the_keyboard(open_window, pictures):
    page = open_window()
    load(page, pictures["plain.png"])
    mask_text(page, "whole picture is protected")
    page.get_by_role("button", name="Box", exact=True).press("Enter")
    canvas = page.locator(".unseg-view canvas")
    canvas.focus()
    canvas.press("Enter")
    for key in ["ArrowRight"] * 5 + ["ArrowDown"] * 5 + ["Enter"]:
        canvas.press(key)
    mask_text(page, "the inside of your boxes: 2.")
    canvas.press("Backspace")
    mask_text(page, "whole picture is protected")
    page.get_by_role("button", name="Protect this picture").press("Enter")
    page.get_by_text("Measured in the written file").wait_for()
    line = page.locator("#unseg-compare input[type=range]")
    line.focus()
    line.press("ArrowLeft")
    assert (
        page.locator(".unseg-before").evaluate("e => e.style.clipPath") == "inset(0px 51% 0px 0px)"
    )


def test_a_narrow_window_needs_no_sideways_scrolling(open_window, pictures):
    page = open_window(width=400, height=800)
    load(page, pictures["portrait.jpg"])
    page.mouse.click(*at(page, 0.5, 0.5))
    mask_text(page, "made the mask from your points")
    protect(page)
    page.wait_for_selector(".unseg-after[src^=data]")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    box = page.locator(".unseg-view canvas").bounding_box()
    assert box["height"] > box["width"] > 180  # upright, as its EXIF tag says


def test_two_windows_do_not_mix_and_a_closed_one_leaves_nothing(
    open_window, server, pictures, tmp_path
):
    first, second = open_window(), open_window()
    load(first, pictures["plain.png"])
    load(second, pictures["grey.png"], pictures["deep.png"])
    folders = set(server.sessions.folder.glob("window-*"))
    gone = next(f for f in folders if (f / "originals/plain.png").exists())
    assert [(f / "originals/grey.png").exists() for f in folders - {gone}] == [True]
    protect(first)
    protect(second)
    assert download(first, "Download this result (PNG)", tmp_path).name == "plain.png"
    assert download(second, "Download this result (PNG)", tmp_path).name == "grey.png"
    assert "plain.png" not in second.content()
    first.context.close()
    deadline = time.monotonic() + 90
    while gone.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not gone.exists()
    assert folders - {gone} == set(server.sessions.folder.glob("window-*"))


def test_a_real_photograph_goes_the_whole_way(open_window, real_data, tmp_path):
    photographs = [p for p in real_data.rglob("*.jpg") if p.stat().st_size > 20_000]
    assert photographs, f"no photograph below {real_data}"
    photograph = min(photographs, key=lambda path: (path.stat().st_size, path))
    page = open_window()
    load(page, photograph)
    page.mouse.click(*at(page, 0.5, 0.5))
    mask_text(page, "made the mask from your points")
    protect(page)
    written = read_picture(download(page, "Download this result (PNG)", tmp_path))
    clean = read_picture(photograph)
    assert written.size == clean.size
    assert 0 < np.abs(written.pixels.astype(int) - clean.pixels).max() <= 8
