"""Documents name files that exist, link to headings that exist, and stay readable."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "benchmarks/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if not path.is_symlink()
)
PLAIN_PAGES = tuple(page for page in PAGES if page.count("/") == page.startswith("docs/"))
"""The pages of the top and of `docs/`, not those that the program writes below it."""
WIDTH = 120

THINGS = (
    "epsilon generalization",
    "label modification",
    "min-min alternation",
    "noise tokens",
    "MAE conversion",
    "prompt sampling",
    "jitter",
    "point loss",
    "region map",
    "budget check of written files",
    "resume manifest",
    "JPEG defence",
    "DDC-AT",
    "PQ",
    "mixtures",
)
WAYS = {"Training": 15, "Generation": 15, "Evaluation": 20}
"""Most files that a picture may pass."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """The page without fenced code."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def links(page: str) -> list[str]:
    """Targets of the page's links and images, `src=` included."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)


def anchors(page: str) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        same = sum(other == slug or other.startswith(f"{slug}~") for other in found)
        found.add(f"{slug}~{same}" if same else slug)
    return {slug.replace("~", "-") for slug in found}


def architecture_section(title: str) -> str:
    return re.split(r"^#+ ", text_of("docs/ARCHITECTURE.md").split(f"# {title}\n")[1], flags=re.M)[
        0
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    dead = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (
            anchor and anchor not in anchors(target.resolve().relative_to(ROOT).as_posix())
        ):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", PAGES)
def test_no_marker_of_a_merge_is_left(page):
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", text_of(page), re.MULTILINE)


@pytest.mark.parametrize("page", PLAIN_PAGES)
def test_no_line_is_too_long_to_read(page):
    numbered = enumerate(text_of(page).splitlines(), 1)
    assert [f"{page}:{i}" for i, line in numbered if len(line) > WIDTH] == []


def test_method_keeps_the_headings_that_docstrings_cite():
    headings = re.findall(r"^## (.+)$", text_of("docs/METHOD.md"), re.MULTILINE)
    assert headings == [
        "1. Idea",
        "2. Generator",
        "3. Surrogate",
        "4. Training",
        "5. Generation",
        "6. Evaluation",
        "7. Limits",
    ]


def test_architecture_names_files_that_exist():
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text_of("docs/ARCHITECTURE.md"))
    assert len(named) > 60
    rooms = ("data", "engine", "io", "models", "protection", "victims")
    inside = ("", "unseg", *(f"unseg/{room}" for room in rooms))
    missing = [name for name in named if not any((ROOT / top / name).exists() for top in inside)]
    assert missing == []


def test_architecture_lists_fifteen_things_each_with_a_name_in_its_file():
    rows = re.findall(
        r"^\| ([^|`]+) \| `([^`]+\.py)` \| (.+) \|$", text_of("docs/ARCHITECTURE.md"), re.MULTILINE
    )
    assert tuple(what for what, _, _ in rows) == THINGS
    for what, path, names in rows:
        source = text_of(path)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), f"{what}: {name}"


@pytest.mark.parametrize("title", WAYS)
def test_the_way_of_a_picture_is_short(title):
    steps = re.findall(r"^\d+\. `([\w/]+\.py)`", architecture_section(title), re.MULTILINE)
    assert 10 <= len(steps) <= WAYS[title]
    assert len(set(steps)) == len(steps)


def test_every_experiment_has_a_verdict_and_a_place_in_the_contents():
    text = text_of("docs/EXPERIMENTS.md")
    contents, *entries = re.split(r"^## (?=\d{4}-)", text, flags=re.MULTILINE)
    assert contents.count("](#") == len(entries) > 10
    for entry in entries:
        title, _, body = entry.partition("\n\n")
        assert body.startswith("Verdict: "), title


@pytest.mark.slow
def test_the_picture_of_the_readme_is_what_its_script_makes(tmp_path):
    pytest.importorskip("skimage")
    script = ROOT / "scripts" / "readme_picture.py"
    spec = importlib.util.spec_from_file_location("readme_picture", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "readme.jpg"
    assert module.main(str(out)) == 0
    committed = ROOT / "docs" / "images" / "readme.jpg"
    assert committed.stat().st_size < 400_000
    made, kept = (cv2.imread(str(path)) for path in (out, committed))
    assert made.shape == kept.shape
    assert cv2.norm(made, kept, cv2.NORM_L1) / made.size < 2
