"""On the page, too, a picture costs what its pixels do, whatever its shape."""

from __future__ import annotations

from pathlib import Path

from bounded import refusals
from page_cases import png_of_size

_IMPORTS = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from page_cases import make_pictures, protector
from unseg.page import protecting
from unseg.page.handlers import Handlers
from unseg.page.session import Limits, Sessions

sessions = Sessions(Path({folder!r}) / "page", Limits())
handlers = Handlers(sessions, protector(), lambda **change: change)


def look(path):
    path, window = Path(path), str(path)
    shown = json.loads(handlers.load(window, [str(path)])["canvas"])
    height, width = shown["height"], shown["width"]
    long = max(height, width)
    for marks in (
        {{"points": [[width // 2, height // 2, 1]]}},
        {{"boxes": [[0, 0, width // 2, height // 2]]}},
        {{"strokes": [{{"radius": long / 5, "path": [[0, 0], [width // 3, height // 3]]}}]}},
    ):
        message = {{"picture": path.name, "serial": 1, "marks": marks}}
        answer = handlers.mark(window, json.dumps(message))
        assert json.loads(answer["layer"])["mask"].startswith("data:"), answer
    assert "dB" in handlers.strength(window, path.name, 8, 2)["psnr"]
    done = handlers.protect(window, path.name, 8, 2)
    assert "Measured in the written file" in done["status"], done["status"]
    assert all(view.startswith("data:") for view in json.loads(done["compare"]).values())


look(make_pictures(Path({folder!r}))["plain.png"])
"""


def test_a_picture_of_any_shape_keeps_within_the_stated_memory(tmp_path):
    paths = []
    for size in ((1, 20_000), (20_000, 1), (100_000, 3)):
        paths.append(tmp_path / f"{size[0]}x{size[1]}.png")
        paths[-1].write_bytes(png_of_size(*size))
    imports = _IMPORTS.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "child"))
    assert refusals(imports, "look(path)", paths, memory=300 << 20) == [None] * 3
