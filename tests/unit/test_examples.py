"""Every cell of the notebooks in examples/ runs, and they are stored without output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["protect.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs_in_order(path, tmp_path, monkeypatch):
    pytest.importorskip("skimage", reason="scikit-image is missing: pip install -e .[dev]")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    names: dict[str, object] = {"__name__": "notebook"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "clear the output before it is committed"
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
    assert list(tmp_path.iterdir()) == []
