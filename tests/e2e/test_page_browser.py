"""The page in a real browser: upload, click, draw, protect, download; keys and narrow windows."""

from __future__ import annotations

import ipaddress
import multiprocessing
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import proof_stub
import pytest
from browser_cases import started_browser
from page_cases import LOADED, check_archive, connections, make_pictures, served
from page_visitor import (
    at,
    check_narrow,
    download,
    drag,
    keys,
    load,
    mask_text,
    open_page,
    press,
    protect,
    tab_to,
    upload_by_keyboard,
)

from unseg.io.pictures import read_picture
from unseg.page import handlers
from unseg.page.proving import ProofOffer
from unseg.victims.grid.prove import COST, FEWEST_PICTURES

pytest.importorskip("gradio", reason="gradio is missing: pip install -e .[demo]")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("page") / "temporary"
    offer = ProofOffer(proof_stub.real_but_for_grey, fewest=FEWEST_PICTURES, cost=COST)
    with connections() as asked, served(folder, offer=offer) as server:
        yield server
    assert all(ipaddress.ip_address(address).is_loopback for address in asked), asked


@pytest.fixture(scope="module")
def wait_until_gone(server) -> Callable[..., None]:
    """Waits until the server has closed the windows of these folders."""
    closed, close = threading.Condition(), server.sessions.close

    def close_and_tell(window: str) -> None:
        close(window)
        with closed:
            closed.notify_all()

    def wait(*folders: Path) -> None:
        with closed:
            closed.wait_for(lambda: not any(folder.exists() for folder in folders))

    server.sessions.close = close_and_tell
    return wait


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def open_window(browser, server, wait_until_gone) -> Iterator[Any]:
    """Opens windows; at the end every request of theirs must have stayed on this computer."""
    contexts, asked = [], []

    def open_one(width: int = 1200, height: int = 900) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        context.on("page", lambda page: page.on("websocket", lambda s: asked.append(s.url)))
        return open_page(context, server.url)

    yield open_one
    folders = list(server.sessions.folder.glob("window-*"))
    for context in contexts:
        context.close()
    wait_until_gone(*folders)
    assert asked
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}


def test_pictures_of_every_kind_are_marked_protected_and_downloaded(
    open_window, pictures, tmp_path
):
    page = open_window()
    assert page.get_by_role("button", name="Protect this picture").is_disabled()
    load(page, *pictures.values())
    page.get_by_text("notes.jpg: not a picture of JPEG").wait_for()
    for text in LOADED:
        page.get_by_text(text).wait_for()
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
    page.wait_for_selector(".unseg-noise[src^=data]")
    secret = page.get_by_label("Secret (optional)")
    assert secret.get_attribute("type") == "password"
    secret.fill("hunter2")
    press(page, "Protect this picture")
    page.locator("#unseg-status").get_by_text("the secret has 7 bytes, at least 16").wait_for()
    secret.fill("correct horse battery")
    press(page, "Protect all pictures")
    page.get_by_text("profile.png: 120 x 90 pixels, 8-bit colour with colour profile. M").wait_for()
    archive = download(page, "Download all with manifest (zip)", tmp_path)
    check_archive(archive, pictures, tmp_path / "all", budget=8)


def test_everything_can_be_done_with_the_keyboard(open_window, pictures, tmp_path):
    page = open_window()
    upload_by_keyboard(page, pictures["plain.png"])
    mask_text(page, "whole picture is protected")
    tab_to(page, "Box")
    keys(page, "Enter")
    tab_to(page, "Mark the object")
    keys(page, "Enter", *["ArrowRight"] * 5, *["ArrowDown"] * 5, "Enter")
    mask_text(page, "the inside of your boxes: 2.")
    keys(page, "Backspace")
    mask_text(page, "whole picture is protected")
    keys(page, "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab", "Enter")  # back to the brush
    tab_to(page, "Mark the object")
    keys(page, "Enter", *["ArrowRight"] * 5, "Enter")
    mask_text(page, "The mask is what you brushed")
    tab_to(page, "range slider for Inside the mask")
    keys(page, "ArrowRight")
    tab_to(page, "Protect this picture")
    keys(page, "Enter")
    page.get_by_text("changed by at most 9 of 9 levels inside").wait_for()
    tab_to(page, "Download this result")
    with page.expect_download() as started:
        keys(page, "Enter")
    assert started.value.suggested_filename == "plain.png"
    tab_to(page, "Compare")
    keys(page, "ArrowLeft")
    clip = page.locator(".unseg-before").evaluate("e => e.style.clipPath")
    assert clip == "inset(0px 51% 0px 0px)"


def test_every_control_is_reachable_in_a_narrow_window(open_window, pictures, tmp_path):
    page = open_window(width=400, height=800)
    check_narrow(page)
    long = tmp_path / f"{'a_long_name_' * 9}.jpg"
    long.write_bytes(pictures["portrait.jpg"].read_bytes())
    load(page, long, pictures["plain.png"])
    page.mouse.click(*at(page, 0.5, 0.5))
    mask_text(page, "made the mask from your points")
    press(page, "Brush")
    protect(page)
    page.wait_for_selector(".unseg-after[src^=data]")
    page.get_by_text("Download all with manifest").wait_for()  # it comes after the picture
    assert check_narrow(page) >= {
        "Click to upload or drop files", "Shown picture", "Object", "Not object", "Box", "Brush",
        "Eraser", "Size", "Undo", "Clear marks", "Protect this picture", "Protect all pictures",
        "Download this result (PNG)", "Download all with manifest (zip)",
        "Remove my pictures from the disk", "Prove it on these pictures",
    }  # fmt: skip
    box = page.locator(".unseg-view canvas").bounding_box()
    assert box["height"] > box["width"] > 180  # upright, as its EXIF tag says


def test_marks_faster_than_the_server_are_all_taken(open_window, pictures, monkeypatch):
    def held(upload: Any) -> Any:
        everything_is_drawn.wait()
        return region_of(upload)

    region_of, everything_is_drawn = handlers.region_of, threading.Event()
    page = open_window()
    load(page, pictures["plain.png"])
    monkeypatch.setattr(handlers, "region_of", held)
    try:
        page.mouse.click(*at(page, 0.5, 0.5))
        press(page, "Clear marks")
        press(page, "Box")
        drag(page, (0.25, 0.25), (0.4, 0.4), (0.6, 0.7))
        press(page, "Brush")
        drag(page, (0.6, 0.5), (0.8, 0.5))
    finally:
        everything_is_drawn.set()
    mask_text(page, "the inside of your boxes, corrected by your brush")
    page.wait_for_selector(".unseg-layer:not(.unseg-old)[src^=data]")


def protect_a_box(page: Any, picture: Path) -> None:
    """Load a picture, draw a box on it, protect it."""
    load(page, picture)
    press(page, "Box")
    drag(page, (0.25, 0.25), (0.4, 0.4), (0.6, 0.7))
    mask_text(page, "the inside of your boxes")
    protect(page)
    page.get_by_text("Marked and protected: 1 of the 20 pictures").wait_for()
    page.get_by_text("about 13 minutes of one CPU core").wait_for()
    press(page, "Prove it on these pictures")


def test_the_page_proves_the_protection_or_says_that_it_cannot_tell(
    open_window, pictures, tmp_path
):
    page = open_window()
    assert page.get_by_text("Is it protected?").is_hidden()
    protect_a_box(page, pictures["plain.png"])
    words = "Too few pictures to tell: 1 with a mask, at least 20 are needed."
    page.get_by_text(words).wait_for()
    report = download(page, "Download the report (HTML)", tmp_path)
    assert report.name == "unseg-proof.html"
    assert words in report.read_text(encoding="utf-8")


def test_a_proof_shows_how_far_it_is_and_is_stopped(open_window, pictures):
    page = open_window()
    protect_a_box(page, pictures["grey.png"])
    page.get_by_text("40 % of the work is done, about ").wait_for()
    assert page.locator("#unseg-proof progress").get_attribute("value") == "0.400"
    protect(page)
    press(page, "Stop the proof")
    page.get_by_text("The proof was stopped.").wait_for()
    assert multiprocessing.active_children() == []
    page.get_by_role("button", name="Prove it on these pictures").wait_for()


def leftover(server: Any) -> list[Path]:
    """Pictures, results and gradio's copies; it also leaves an empty file of every upload."""
    files = [path for path in server.sessions.folder.rglob("*") if path.is_file()]
    return [path for path in files if path.stat().st_size]


def test_two_windows_do_not_mix_and_a_closed_one_leaves_nothing(
    open_window, server, wait_until_gone, pictures, tmp_path
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
    wait_until_gone(gone)
    assert folders - {gone} == set(server.sessions.folder.glob("window-*"))
    second.context.close()
    wait_until_gone(*folders)
    assert leftover(server) == []


def test_real_pictures_go_the_whole_way(open_window, real_data, tmp_path):
    """One of each set: of different sizes, kinds and file formats."""
    found = {}
    for path in sorted(real_data.glob("*/[iIJ]*/**/*.[jp]*g")):
        found.setdefault(path.relative_to(real_data).parts[0], path)
    photographs = list(found.values())[:4]
    assert len(photographs) > 1, f"no photographs below {real_data}"
    page = open_window()
    load(page, *photographs)
    page.mouse.click(*at(page, 0.5, 0.5))
    mask_text(page, "made the mask from your points")
    press(page, "Protect all pictures")
    page.get_by_text("Measured in the written file").nth(len(photographs) - 1).wait_for()
    archive = download(page, "Download all with manifest (zip)", tmp_path)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "all")
    for photograph in photographs:
        clean = read_picture(photograph)
        written = read_picture(tmp_path / "all" / f"{photograph.stem}.png")
        assert (written.size, written.is_grey) == (clean.size, clean.is_grey), photograph
        change = np.abs(written.pixels.astype(int) - clean.pixels)
        assert 0 < change.max() <= 8 * (clean.max_value // 255), photograph
