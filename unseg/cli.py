"""The `unseg` command: one sub-command, one entry function.

Run `unseg --help` for the list, `unseg COMMAND --help` for one command.
"""

from __future__ import annotations

import difflib
import importlib
import io
import sys
from collections.abc import Sequence

from unseg import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("unseg.commands.train", "train a generator, or continue to"),
    "pretrain-mae": ("unseg.commands.pretrain_mae", "pre-train the surrogate's encoder on images"),
    "pretrain-sam": ("unseg.commands.pretrain_sam", "pre-train a small generator's frozen part"),
    "generate": ("unseg.commands.generate", "protect a data set by a configuration"),
    "protect": ("unseg.commands.protect", "protect pictures and folders in one line"),
    "check": ("unseg.commands.check", "measure a protected set again, and what JPEG leaves of it"),
    "data": ("unseg.commands.data", "check a data set on the disk against its configuration"),
    "evaluate": ("unseg.commands.evaluate", "train victims on protected data, test them on clean"),
    "report": ("unseg.commands.report", "write the report of an evaluation again"),
    "leaderboard": ("unseg.commands.leaderboard", "render a leaderboard from its rows"),
    "weights": ("unseg.commands.weights", "list, download, inspect, export, convert weights"),
    "demo": ("unseg.commands.demo", "open the page on which pictures are marked and protected"),
    "doctor": ("unseg.commands.doctor", "report versions, device, weights, data, what is missing"),
}
"""Name -> (module whose `main(argv) -> int` runs it, one line for the help)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Returns:
        0 done, 1 some items failed, 2 bad call or configuration, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"unseg {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        print(f"unseg: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    # A command's libraries are loaded only for that command: `unseg --help` stays instant.
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(rest))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unseg COMMAND ...    (unseg COMMAND --help for one command)",
            "",
            "commands:",
            *lines,
            "",
            "exit codes: 0 done, 1 some items failed, 2 bad call or configuration, 130 interrupted",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
