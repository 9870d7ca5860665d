"""The leaderboard in a real browser: sorted, filtered, one row by its permanent link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from board_cases import ROWS_OF_A_TEST, write_board
from browser_cases import started_browser

from unseg.commands.leaderboard import main
from unseg.victims.report.elements import Section, Table
from unseg.victims.report.leaderboard import COLUMNS
from unseg.victims.report.page import write_page
from unseg.victims.report.summary import summary_section

pytest.importorskip("jinja2", reason="jinja2 is missing: pip install -e .[eval]")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]
HEADINGS = [name for name, _ in COLUMNS]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = write_board(tmp_path_factory.mktemp("board"))
    assert main([str(folder)]) == 0
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    with started_browser() as browser:
        yield browser.new_page(viewport={"width": 1300, "height": 900})


def column(window: Any, name: str) -> list[str]:
    """What the shown lines say in a column, from above."""
    place = HEADINGS.index(name) + 1
    lines = window.locator("#board tbody tr:visible")
    return lines.locator(f"td:nth-child({place})").all_inner_texts()


def test_the_table_is_sorted_filtered_and_shows_one_row_by_its_link(window, address):
    faults: list[str] = []
    window.on("pageerror", lambda error: faults.append(str(error)))
    window.goto(address)
    assert len(column(window, "selected")) == len(ROWS_OF_A_TEST)

    window.get_by_role("button", name="selected").click()
    scores = [float(text.split(" ")[0]) for text in column(window, "selected")]
    assert scores == sorted(scores)
    window.get_by_role("button", name="selected").click()
    assert [float(text.split(" ")[0]) for text in column(window, "selected")] == scores[::-1]
    window.get_by_role("button", name="protection").click()
    assert column(window, "protection")[-1] == "–", "rows without a value come last"

    window.get_by_label("defence").select_option("jpeg-75")
    assert column(window, "defence") == ["jpeg-75"] * 2
    window.get_by_label("search").fill("quiet")
    assert column(window, "trained on") == ["quiet 8/2"]
    assert window.get_by_role("status").inner_text() == "1 of 5 rows"
    window.get_by_role("button", name="all rows").click()
    assert len(column(window, "data")) == len(ROWS_OF_A_TEST)

    window.goto("about:blank")
    window.goto(f"{address}#{ROWS_OF_A_TEST[1].id}")
    details = window.locator("#details")
    assert "unseg evaluate a.yaml" in details.inner_text()
    assert details.locator("svg path").count() == 2, "the row's curve and its clean twin's"
    window.locator(".heat a", has_text="0.12").first.click()
    assert ROWS_OF_A_TEST[2].id in details.inner_text()
    assert faults == []


def test_the_page_fits_a_window_of_a_laptop(window, address):
    window.goto(address)
    assert window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    frame = window.locator("#board-frame")
    assert frame.evaluate("e => e.scrollWidth <= e.clientWidth")


def test_a_report_begins_with_its_heat_map_and_its_tables_fit_the_window(window, tmp_path):
    header = ("victim", "defence", "training pictures", *(f"score {i}" for i in range(9)))
    line = (
        "U-Net on ImageNet EfficientNet-Lite0, 128 px",
        "sharpen-2.5+dct-30",
        "UnSeg default 8/2",
    )
    table = Table(header, [(*line, *["40.3 ± 1.2"] * 9)], num_text=3)
    sections = [summary_section(ROWS_OF_A_TEST), Section("Scores", [table])]
    write_page(tmp_path / "report.html", title="A report", sections=sections)
    window.goto((tmp_path / "report.html").as_uri())
    assert window.locator("h2").all_inner_texts() == ["Summary", "Scores"]
    assert window.locator(".heat td").first.evaluate(
        "e => getComputedStyle(e).backgroundColor"
    ) == ("rgb(29, 92, 84)")
    sizes = "tables => tables.map((t) => t.scrollWidth - t.clientWidth)"
    assert max(window.locator("table").evaluate_all(sizes)) <= 0
