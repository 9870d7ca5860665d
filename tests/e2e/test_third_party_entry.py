"""Pictures protected by a program that does not know UnSeg are measured and join a leaderboard."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from generate_cases import make_set

from unseg.commands.evaluate import main as evaluate
from unseg.commands.leaderboard import main as leaderboard
from unseg.victims.report.rows import ROWS, read_rows

pytestmark = pytest.mark.e2e
pytest.importorskip("jinja2", reason="jinja2 is missing: pip install -e .[eval]")


def overrides(root: Path, run: Path, entry: Path) -> list[str]:
    """Pictures on the disk instead of the debug twin's scenes."""
    split = f"{{format: binary_mask, root: {root}, images: images, labels: masks}}"
    return [
        "data.kvasir.synthetic=null",
        f"data.kvasir.train={split}",
        f"data.kvasir.test={split}",
        f"methods.entry.train_root={entry}",
        f"run_dir={run}",
    ]


def test_an_entry_of_someone_else_is_measured_and_stands_in_the_table(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = repository / "examples" / "third_party_entry.py"
    source = script.read_text(encoding="utf-8")
    names = {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert "unseg" not in " ".join(names)
    root, entry, run = make_set(tmp_path / "in", 6), tmp_path / "theirs", tmp_path / "run"
    call = [sys.executable, str(script), str(root / "images"), str(root / "masks"), str(entry)]
    subprocess.run(call, check=True)
    config = str(repository / "configs" / "benchmark" / "entry_debug.yaml")
    assert evaluate([config, *overrides(root, run, entry)]) == 0

    rows = {(row.method.name, row.defence): row for row in read_rows(run / ROWS)}
    assert set(rows) == {(m, "none") for m in ("clean", "entry", "tile")} | {("entry", "jpeg-75")}
    row = rows["entry", "none"]
    assert (row.method.title, row.method.authors) == ("checks by hand 8/2", "A. N. Other")
    assert row.kind == "measured"
    assert row.method.linf == 8
    assert row.method.psnr is not None
    assert 30 < row.method.psnr < 40
    assert row.run is not None
    assert row.run.command is not None
    assert "entry_debug.yaml" in row.run.command
    assert row.run.environment["torch"]
    assert row.protection is not None

    assert leaderboard([str(tmp_path / "board"), "--add", str(run)]) == 0
    assert "checks by hand 8/2" in (tmp_path / "board" / "README.md").read_text()
    assert "checks by hand 8/2" in (run / "report.md").read_text()

    card = json.loads((entry / "entry.json").read_text())
    (entry / "entry.json").write_text(json.dumps({**card, "autors": "x"}))
    capsys.readouterr()
    assert evaluate([config, *overrides(root, tmp_path / "new", entry)]) == 2
    assert "entry.json: autors=x: unknown key; did you mean 'authors'?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
