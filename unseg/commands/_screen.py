"""What commands for people print: lines, a bar, colours in a terminal; JSON for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from types import TracebackType
from typing import Any, TextIO

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}
_BAR = "  {percentage:3.0f} % |{bar:24}| {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"


def add_screen_flags(parser: argparse.ArgumentParser, *, json_help: str) -> None:
    """`--json` and `--quiet`, of which a call gives one at most.

    Args:
        parser: of the command.
        json_help: what is printed with `--json`.
    """
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument("--json", action="store_true", help=json_help)
    flags.add_argument("--quiet", action="store_true", help="print problems alone")


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at this stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def counted(number: int, noun: str) -> str:
    """For example `1 picture`, `12 pictures`."""
    return f"{number} {noun}" + "s" * (number != 1)


def printable(name: str) -> str:
    """A file's name without what a terminal would obey: line ends, escapes, lone bytes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


class Screen:
    """Where a command prints: what was done to standard output, problems to standard error.

    A bar is shown on standard error, while it lasts, if that is a terminal; lines appear above it.
    Colours are for terminals, and none are used where `NO_COLOR` is set (no-color.org).

    Args:
        quiet: print problems alone.
        as_json: print what `give` is given, one JSON object a line, and no other text.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._bar: Any = None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Screen:
        """The screen that the flags of `add_screen_flags` ask for."""
        return cls(quiet=options.quiet, as_json=options.json)

    def say(self, text: str = "", colour: str | None = None) -> None:
        """Print lines for people."""
        if not self.quiet and not self.as_json:
            self._print(self._painted(text, colour, sys.stdout), sys.stdout)

    def give(self, value: Any) -> None:
        """Print a value for programs, where `--json` was given."""
        if self.as_json:
            self._print(json.dumps(value), sys.stdout)

    def warn(self, text: str) -> None:
        """Print a problem, whatever the flags say."""
        self._print(self._painted(text, "red", sys.stderr), sys.stderr)

    def bar(self, total: int | None, unit: str = "picture") -> Screen:
        """Show a bar with the time left until the `with` block ends; `step` moves it.

        Args:
            total: number of items; below two there is nothing to wait for.
            unit: what is counted.
        """
        if (total is None or total > 1) and not self.quiet and is_terminal(sys.stderr):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                unit=f" {unit}s",
                bar_format=_BAR if total else None,
                dynamic_ncols=True,
                leave=False,
                file=sys.stderr,
            )
        return self

    def step(self) -> None:
        """One item more is done."""
        if self._bar is not None:
            self._bar.update()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print(self, text: str, stream: TextIO) -> None:
        # A file's name may be bytes that are no text.
        encoding = stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            if self._bar is None:
                print(text, file=stream, flush=True)
            else:
                self._bar.write(text, file=stream)
        except BrokenPipeError:
            # `| head` has read enough; the work goes on, and its exit code stays its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def _painted(self, text: str, colour: str | None, stream: TextIO) -> str:
        if colour is None or not is_terminal(stream) or "NO_COLOR" in os.environ:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
