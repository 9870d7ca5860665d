"""Results as data: rows that say where they come from, and pages that are made of them alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from board_cases import ROWS_OF_A_TEST, board_row, write_board

from unseg.commands.leaderboard import main
from unseg.config.load import from_dict, to_dict
from unseg.utils.errors import ConfigError
from unseg.victims.report.leaderboard import PAGE, PLAIN
from unseg.victims.report.rows import ROWS, broken_by, read_rows
from unseg.victims.report.summary import heat_maps, sentences, worst_of

pytest.importorskip("jinja2", reason="jinja2 is missing: pip install -e .[eval]")


def test_the_same_rows_make_the_same_bytes_and_the_page_needs_no_other_file(tmp_path, capsys):
    first, second = write_board(tmp_path / "a"), write_board(tmp_path / "b", *ROWS_OF_A_TEST[::-1])
    assert main([str(first)]) == main([str(second)]) == 0
    assert "5 rows" in capsys.readouterr().out
    for name in (PAGE, PLAIN):
        before = (first / name).read_bytes()
        assert before == (second / name).read_bytes()
        assert main([str(first)]) == 0
        assert before == (first / name).read_bytes()
    page = (first / PAGE).read_text()
    assert not re.search(r'(src|href)="(?![#])', page)
    assert "loud 8/2" in (first / PLAIN).read_text()


def test_rows_of_a_run_are_added_and_a_run_without_rows_is_refused(tmp_path, capsys):
    run, board = write_board(tmp_path / "run"), tmp_path / "board"
    assert main([str(board), "--add", str(run)]) == 0
    assert [r.id for r in read_rows(board / ROWS)] == sorted(r.id for r in ROWS_OF_A_TEST)
    assert main([str(board), "--add", str(tmp_path)]) == 2
    assert "holds no rows/*.json" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing")]) == 2


def test_a_defence_that_halves_a_protection_breaks_it_and_the_worst_is_shown():
    loud, broken, quiet = ROWS_OF_A_TEST[1:4]
    assert broken_by(loud, ROWS_OF_A_TEST) == ("jpeg-75",)
    assert broken_by(quiet, ROWS_OF_A_TEST) == broken_by(broken, ROWS_OF_A_TEST) == ()
    assert worst_of([loud, broken]) is broken
    assert worst_of([loud]) is None
    ((title, heat),) = heat_maps(ROWS_OF_A_TEST)
    assert title == "polyps, U-Net"
    assert list(heat.columns) == ["none", "jpeg-75", "worst"]
    shown = {name: [cell.text for cell in cells] for name, cells in heat.rows}
    assert shown == {"loud 8/2": ["1.00", "0.12", "0.12"], "quiet 8/2": ["0.75", "0.88", "0.75"]}


def test_the_sentences_of_a_summary_follow_from_the_rows():
    first, third = sentences(ROWS_OF_A_TEST)
    assert first.startswith("Without a defence loud 8/2 protects best: 1.00 on average over 1 cell")
    assert "quiet 8/2 keeps most (0.75" in third
    assert "1 of 2 attacks fall below 0.5" in third
    undefended = board_row("loud", 0.2, peak_protection=0.5)
    assert sentences([undefended])[1:] == [
        "A trainer who stops at the best epoch faces 0.50 on average instead of 0.75, over all 1 "
        "undefended rows.",
        "No defence was measured: the worst case is not known.",
    ]
    assert sentences([ROWS_OF_A_TEST[0]]) == [
        "No defence was measured: the worst case is not known."
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 2, "schema=2"),
        ("selected", {"mean": 0.5, "values": [0.1, 0.2]}, "is not the mean of values"),
        ("run", None, "a measured row needs run and seeds"),
        ("kind", "reported", "a reported row needs its source"),
        ("id", "../up", "names are letters"),
        ("scores", {}, "unknown key"),
    ],
)
def test_a_row_that_does_not_hold_together_is_named_with_its_key(
    tmp_path, capsys, key, value, message
):
    folder = write_board(tmp_path)
    path = folder / ROWS / f"{ROWS_OF_A_TEST[1].id}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert str(path) in error


def test_a_row_under_another_name_or_no_row_at_all_is_refused(tmp_path, capsys):
    folder = write_board(tmp_path)
    path = folder / ROWS / f"{ROWS_OF_A_TEST[1].id}.json"
    path.rename(path.with_name("other.json"))
    (folder / ROWS / "list.json").write_text("[1]")
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert "list.json: is no row" in error[0]
    assert "is not the file's name" in error[1]


def test_words_of_a_submitter_cannot_leave_their_place(tmp_path):
    evil = "</script><script>alert(1)</script>[x](javascript:1)<img src=x>"
    values = to_dict(ROWS_OF_A_TEST[1])
    values["method"]["title"] = evil
    folder = write_board(
        tmp_path, board_row("clean", 0.8), from_dict(type(ROWS_OF_A_TEST[0]), values, source="x")
    )
    assert main([str(folder)]) == 0
    page, plain = (folder / PAGE).read_text(), (folder / PLAIN).read_text()
    assert page.count("<script") == 2
    assert "<img" not in page + plain
    assert "[x](javascript" not in plain.replace("\\[", "")
    values["method"]["url"] = "javascript:alert(1)"
    with pytest.raises(ConfigError, match="must begin with https"):
        from_dict(type(ROWS_OF_A_TEST[0]), values, source="x")


def test_the_committed_leaderboard_is_what_its_rows_make(tmp_path, repository: Path):
    committed = repository / "docs" / "leaderboard"
    shutil.copytree(committed / ROWS, tmp_path / ROWS)
    assert main([str(tmp_path)]) == 0
    for name in (PAGE, PLAIN):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), (
            "run: unseg leaderboard docs/leaderboard"
        )
    assert sum(p.stat().st_size for p in committed.rglob("*") if p.is_file()) < 3_000_000
    for row in read_rows(committed / ROWS):
        assert row.kind == "reported" or row.run is not None


def test_the_findings_say_what_their_rows_say(repository: Path):
    """Each `[0.99][r1]` of docs/BENCHMARK.md is the protection of the row that r1 names."""
    text = (repository / "docs/BENCHMARK.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\[(r\d+)\]: leaderboard/index\.html#(\S+)$", text, re.M))
    stated = re.findall(r"\[(-?\d\.\d\d)\]\[(r\d+)\]", text)
    assert len(stated) >= 10
    for number, name in stated:
        path = repository / "docs/leaderboard/rows" / f"{rows[name]}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["protection"]
        assert f"{found:z.2f}" == number, rows[name]
