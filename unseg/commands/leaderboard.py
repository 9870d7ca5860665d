"""Render a leaderboard from its rows.

unseg leaderboard docs/leaderboard                            # index.html and README.md again
unseg leaderboard docs/leaderboard --add work_dirs/evaluate/core   # with the rows of that run

Rows are the files DIR/rows/*.json (docs/BENCHMARK.md). The same rows make the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unseg.commands._run import EXIT_DONE, Parser, user_errors


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg leaderboard DIR [--add RUN_DIR ...]`."""
    parser = Parser(
        prog="unseg leaderboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds rows/*.json")
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], metavar="RUN_DIR", help="runs of unseg evaluate"
    )
    options = parser.parse_args(argv)
    from unseg.victims.report.leaderboard import add_runs, write_leaderboard

    if options.add:
        print(f"added {add_runs(options.folder, options.add)} rows")
    path, count = write_leaderboard(options.folder)
    print(f"{path}: {count} rows")
    return EXIT_DONE
