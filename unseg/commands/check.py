"""Measure a protected set again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unseg.commands._run import EXIT_DONE, EXIT_SOME_FAILED, user_errors
from unseg.commands._screen import Screen, add_screen_flags

DOC = """Measure a protected set again, and see what JPEG compression leaves of its noise.

  unseg check OUT --against IMAGES                the folder that was protected
  unseg check MIRROR --against DATASET            a mirrored data set

Exit codes: 0 all is as the manifest says, 1 a file is missing, changed or beyond its budget, 2 bad
call.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg check DIR --against CLEAN_DIR`."""
    parser = argparse.ArgumentParser(
        prog="unseg check", description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="output folder of a generation")
    parser.add_argument("--against", type=Path, required=True, metavar="CLEAN_DIR")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first images")
    parser.add_argument(
        "--quality", type=int, nargs="*", default=[95, 75, 50], help="JPEG qualities to try"
    )
    add_screen_flags(parser, json_help="print one JSON object")
    options = parser.parse_args(argv)
    from unseg.protection.writing.check import check_set

    screen = Screen.of(options)
    with screen.bar(None):
        checked = check_set(
            options.folder,
            options.against,
            qualities=tuple(options.quality),
            limit=options.limit,
            on_image=screen.step,
        )
    screen.give(asdict(checked))
    screen.say(checked.table(), "red" if checked.faults else None)
    if screen.quiet:
        for fault in checked.faults:
            screen.warn(fault)
    return EXIT_SOME_FAILED if checked.faults else EXIT_DONE
