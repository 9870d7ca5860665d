"""What all commands share: exit codes, and the CONFIG [key=value ...] call of the long jobs."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol, TypeVar

from unseg.config.describe import describe
from unseg.config.load import has_key, load_config, to_yaml
from unseg.utils.errors import UserError

T = TypeVar("T")
EXIT_DONE, EXIT_SOME_FAILED, EXIT_BAD_CALL, EXIT_INTERRUPTED = 0, 1, 2, 130


class Main(Protocol):
    """An entry function: arguments in (None takes the process's), exit code out."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as all mistakes of a caller."""

    def error(self, message: str) -> NoReturn:
        """Report a wrong call."""
        raise UserError(f"{self.prog}: {message}; {self.prog} --help shows the call")


def user_errors(main: Callable[..., int]) -> Main:
    """Turn a command's `main(argv)` into one that reports users' mistakes without a traceback.

    A `UserError` becomes one line per problem on standard error and exit code 2, an interruption
    exit code 130. Every other failure is ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(error, file=sys.stderr)
            return EXIT_BAD_CALL
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except SystemExit as stop:  # argparse ends this way, after --help and after a bad call
            return stop.code if isinstance(stop.code, int) else EXIT_BAD_CALL * bool(stop.code)

    return wrapped


def config_command(
    argv: Sequence[str] | None,
    schema: type[T],
    *,
    prog: str,
    doc: str | None,
    resume_key: str = "resume",
) -> T | None:
    """The configuration that a call `CONFIG [key=value ...]` asks for.

    Flags: `--help`, `--print-config` (the resolved configuration as YAML) and, where the schema
    has `resume_key`, `--resume`, which sets that key to true.

    Args:
        argv: arguments after the program's name; None takes the process's.
        schema: configuration dataclass.
        prog: how the program is called, for the help.
        doc: the entry module's docstring, its runbook.
        resume_key: dotted key of the boolean that `--resume` sets.

    Returns:
        The configuration, or None where it was only to be printed.

    Raises:
        UserError: (also as ConfigError) for anything wrong in the call or the configuration.
    """
    parser = Parser(
        prog=prog,
        usage=f"{prog} CONFIG [key=value ...] [--print-config]"
        + (" [--resume]" if has_key(schema, resume_key) else ""),
        description=doc,
        epilog=f"keys of CONFIG:\n{describe(schema)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="YAML file, see configs/")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="dotted overrides")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    if has_key(schema, resume_key):
        parser.add_argument(
            "--resume", action="store_true", help="continue the run of this configuration"
        )
    options = parser.parse_intermixed_args(argv)
    overrides = list(options.overrides)
    if getattr(options, "resume", False):
        overrides.append(f"{resume_key}=true")
    config = load_config(schema, options.config, overrides)
    if options.print_config:
        print(to_yaml(config), end="")
        return None
    return config
