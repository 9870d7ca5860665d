"""What a person does at the page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NAME = """e => (e.getAttribute("aria-label") || e.innerText ||
    (e.labels && e.labels[0] ? e.labels[0].innerText : "")).trim()"""
FOCUSED = f"({NAME})(document.activeElement)"
CONTROLS = f"""() => [...document.querySelectorAll("button, input, canvas, summary, a[href]")]
    .filter((e) => e.checkVisibility() && e.type !== "file")
    .map((e) => {{
        e.scrollIntoView({{ block: "center" }});
        const frame = e.getBoundingClientRect();
        const [x, y] = [frame.left + frame.width / 2, frame.top + frame.height / 2];
        const hit = document.elementFromPoint(x, y);
        return {{
            name: ({NAME})(e), left: frame.left, right: frame.right,
            is_hit: hit !== null && e.contains(hit),
            is_cut: e.tagName === "BUTTON" && e.scrollWidth > e.clientWidth + 1,
        }};
    }})"""


def open_page(context: Any, url: str) -> Any:
    """A window whose scripts listen. No wait of it has an end of its own: the test has one."""
    page = context.new_page()
    page.set_default_timeout(0)
    page.goto(url)
    # The last script of the page to run: before it, nothing listens.
    page.wait_for_function("document.querySelector('.unseg-hint')?.textContent")
    page.get_by_role("button", name="Protect this picture").wait_for()
    return page


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


def tab_to(page: Any, name: str) -> None:
    """Press Tab until the control of that name is focused; nothing is focused from outside."""
    passed = []
    for _ in range(60):
        page.keyboard.press("Tab")
        passed.append(page.evaluate(FOCUSED))
        if passed[-1].startswith(name):
            return
    pytest.fail(f"Tab does not reach {name!r}; it passes {passed}")


def keys(page: Any, *names: str) -> None:
    for name in names:
        page.keyboard.press(name)


def upload_by_keyboard(page: Any, path: Path) -> None:
    """Open the chooser with Enter, again and again: a busy browser may take a key too late."""
    choosers: list[Any] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    tab_to(page, "Click to upload or drop files")
    while not choosers:
        keys(page, "Enter")
        page.wait_for_timeout(1000)
    choosers[0].set_files([str(path)])


def check_narrow(page: Any) -> set[str]:
    """Nothing scrolls sideways, and every control is seen whole and can be hit; their names."""
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 400
    controls = page.evaluate(CONTROLS)
    for control in controls:
        assert control["left"] >= 0, control
        assert control["right"] <= 400, control
        assert control["is_hit"], control
        assert not control["is_cut"], control
    return {control["name"] for control in controls}
