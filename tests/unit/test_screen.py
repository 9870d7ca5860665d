"""What commands for people print, where somebody looks and where nobody does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from unseg.cli import main
from unseg.commands._screen import Screen, counted


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch) -> Terminal:
    """Both streams at once, as in a window."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_one_is_not_many():
    assert [counted(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]


def test_colours_are_for_terminals_alone(capsys, monkeypatch):
    terminal = open_terminal(monkeypatch)
    Screen().say("gone", "red")
    assert terminal.getvalue() == "\x1b[31mgone\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    Screen().say("plain", "red")
    assert terminal.getvalue().endswith("\nplain\n")
    monkeypatch.undo()
    Screen().say("piped", "red")
    assert capsys.readouterr().out == "piped\n"


def test_a_bar_says_how_far_the_work_is_and_leaves_the_lines(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with Screen().bar(3) as screen:
        for number in range(3):
            screen.say(f"picture {number}")
            screen.step()
    shown = terminal.getvalue()
    assert "of 3" in shown
    assert " left" in shown
    lines = [line.split("\r")[-1] for line in shown.split("\n")]
    assert lines[:3] == ["picture 0", "picture 1", "picture 2"]


@pytest.mark.parametrize(("total", "flags"), [(1, {}), (9, {"quiet": True})])
def test_there_is_no_bar_for_one_item_nor_for_the_quiet(monkeypatch, total, flags):
    terminal = open_terminal(monkeypatch)
    with Screen(**flags).bar(total) as screen:
        screen.step()
    assert terminal.getvalue() == ""


def test_quiet_prints_problems_alone_and_json_values_alone(capsys):
    for screen in (Screen(quiet=True), Screen(as_json=True)):
        screen.say("done")
        screen.give({"name": "\udcff.png"})
        screen.warn("wrong")
    printed = capsys.readouterr()
    assert printed.err == "wrong\nwrong\n"
    assert [json.loads(line) for line in printed.out.splitlines()] == [{"name": "\udcff.png"}]


def test_a_name_that_is_no_text_is_printed_escaped(capsys):
    Screen().say("\udcff.png")
    assert capsys.readouterr().out == "\\udcff.png\n"


def test_a_reader_that_has_enough_changes_no_exit_code():
    call = [sys.executable, "-m", "unseg.cli", "weights", "list"]
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", ["protect", "check", "demo", "doctor", "weights list"])
def test_commands_for_people_have_both_flags_and_refuse_them_together(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--quiet" in shown
    needed = {"protect": ["a.png", "--output", "b"], "check": ["a", "--against", "b"]}
    assert main([*command.split(), *needed.get(command, []), "--json", "--quiet"]) == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("call", [["weights", "list"], ["doctor", "--no-checksums"]])
def test_json_is_one_object_and_quiet_is_short(call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*call, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert main([*call, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
