"""Measure a protected set again."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unseg.commands._run import EXIT_DONE, EXIT_SOME_FAILED, user_errors
from unseg.commands._screen import Screen, add_screen_flags
from unseg.utils.errors import UserError

DOC = """Measure a protected set again, and see what JPEG compression leaves of its noise.

  unseg check OUT --against IMAGES                the folder that was protected
  unseg check MIRROR --against DATASET            a mirrored data set
  unseg check OUT --against IMAGES --prove        is it protected? Trains small victims: minutes
  unseg check OUT --against IMAGES --prove --masks MASKS    where the manifest knows no masks

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
    parser.add_argument(
        "--prove",
        action="store_true",
        help="train small victims on the clean and on the protected pictures (extra [eval])",
    )
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="for --prove: masks named as the pictures"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="for --prove: page (default: DIR_proof.html)"
    )
    options = parser.parse_args(argv)
    if not options.prove and (options.masks or options.report):
        raise UserError("--masks and --report: for --prove alone")
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
    screen.say(checked.table(), "red" if checked.faults else None)
    if screen.quiet:
        for fault in checked.faults:
            screen.warn(fault)
    found = asdict(checked)
    if options.prove:
        found["proof"] = _prove(options, screen, sys.argv[1:] if argv is None else argv)
    screen.give(found)
    return EXIT_SOME_FAILED if checked.faults else EXIT_DONE


def _prove(options: argparse.Namespace, screen: Screen, argv: Sequence[str]) -> dict[str, Any]:
    """Train victims on the pictures, say what they found, write the page; returns its numbers."""
    from unseg.utils.logging import setup_logging
    from unseg.utils.provenance import provenance
    from unseg.victims.grid.proof_pictures import find_pictures
    from unseg.victims.grid.prove import prove
    from unseg.victims.report.page import need_page_packages
    from unseg.victims.report.proof import text_lines, write_proof

    need_page_packages()
    setup_logging(rank=int(screen.quiet))
    folder: Path = options.folder
    page = options.report or folder.resolve().with_name(f"{folder.resolve().name}_proof.html")
    proof = prove(find_pictures(folder, options.against, options.masks))
    origin = provenance(shlex.join(["unseg", "check", *argv]))
    content = write_proof(proof, page, origin=origin)
    screen.say("\n".join([*text_lines(proof), f"report: {page}"]))
    return content
