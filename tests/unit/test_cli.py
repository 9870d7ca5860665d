"""The `unseg` command and the exit codes that all commands share."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unseg
from unseg.cli import COMMANDS, main
from unseg.commands._run import user_errors
from unseg.utils.errors import ConfigError, UserError

COMMANDS_DIR = Path(unseg.__file__).parent / "commands"


def test_help_lists_every_command_with_one_line(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, text) in COMMANDS.items():
        assert sum(line.split() == [name, *text.split()] for line in lines) == 1


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unseg {unseg.__version__}\n"


def test_no_command_shows_the_help_and_is_a_bad_call(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "hint"), [("doctr", "did you mean 'doctor'?"), ("xyzzy", "commands: ")]
)
def test_an_unknown_command_is_one_line_with_a_suggestion(name, hint, capsys):
    assert main([name]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert hint in captured


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_with_a_main_and_a_help(name, capsys):
    module = COMMANDS[name][0]
    path = COMMANDS_DIR / f"{module.rsplit('.', 1)[-1]}.py"
    functions = [n.name for n in ast.parse(path.read_text()).body if hasattr(n, "name")]
    assert "main" in functions
    assert main([name, "--help"]) == 0
    assert "usage: " in capsys.readouterr().out


def test_the_list_of_commands_loads_no_library():
    code = "import sys, unseg.cli; unseg.cli.main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("a.png: no such file"), 2, "a.png: no such file\n"),
        (ConfigError(["first", "second"]), 2, "first\nsecond\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(None), 0, ""),
        (SystemExit(2), 2, ""),
    ],
)
def test_what_ends_a_command_decides_its_exit_code(error, code, message, capsys):
    @user_errors
    def command(argv=None) -> int:
        raise error

    assert command([]) == code
    assert capsys.readouterr().err == message


def test_our_own_mistakes_keep_their_traceback():
    @user_errors
    def command(argv=None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command([])


def test_a_bad_flag_is_exit_code_2(capsys):
    @user_errors
    def command(argv=None) -> int:
        argparse.ArgumentParser(prog="x").parse_args(argv)
        return 0

    assert command(["--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err


def test_the_installed_command_is_this_one():
    result = subprocess.run(
        [sys.executable, "-m", "unseg.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == f"unseg {unseg.__version__}"
