"""Protect single pictures and folders without a configuration file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unseg.commands._run import user_errors
from unseg.utils.errors import UserError

DOC = """Protect pictures; what protects one object is a prompt, without one the whole picture is.

  unseg protect photo.jpg --mask mask.png --output DIR
  unseg protect photo.jpg --box 40,30,200,180 --output DIR        x0,y0,x1,y1; may be repeated
  unseg protect photo.jpg --point 120,90 --output DIR             x,y of the object; may be repeated
  unseg protect photos/ --output DIR                              every picture of a folder
  unseg protect photos/ --mask masks/ --output DIR                masks of the same names

Pictures are written without loss (PNG); manifest.jsonl holds what was measured in each file, and
other_files.jsonl names what is no picture. Exit codes: 0 all written, 1 some failed, 2 bad call.
"""

_FLAGS = {
    "set output.keep_suffix=true": "give --keep-suffix",
    "set run.restart=true": "give --restart",
    "set output.format=png": "give --format png",
    "set run.device=cpu": "give --device cpu",
    "another output.dir": "another --output",
    "output.dir=": "--output ",
    "generator.path": "--generator",
}
"""What messages advise to those who have a configuration, and what it is called here."""

_SHOWN = 50
"""Pictures of a folder that get a line of their own."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg protect PATH... --output DIR [...]`."""
    options = _parser().parse_args(argv)
    from unseg.utils.logging import setup_logging

    setup_logging()
    try:
        return _protect(options)
    except UserError as error:
        raise UserError(_with_flags(str(error))) from None


def _protect(options: argparse.Namespace) -> int:
    from unseg.config.generate import GenerateConfig
    from unseg.config.load import load_config
    from unseg.protection.reading.given_pictures import GivenPictures
    from unseg.protection.run import generate

    source = GivenPictures(options.pictures, _prompts(options))
    config = load_config(GenerateConfig, None, _overrides(options, bool(source.folders)))
    shown: list[str] = []

    def show(entry: dict[str, Any]) -> None:
        if len(shown) < _SHOWN:
            shown.append(entry["key"])
            print(_with_flags(_line(entry, options.output)))

    summary = generate(config, source=source, folders=source.folders, on_entry=show)
    if summary.total > 1 or options.dry_run or source.folders:
        print(_with_flags(summary.table()))
    return summary.exit_code


def _with_flags(text: str) -> str:
    """A message whose advice this command can take."""
    for key, flag in _FLAGS.items():
        text = text.replace(key, flag)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unseg protect", description=DOC, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PATH", help="picture or folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="output folder")
    parser.add_argument("--mask", type=Path, help="mask file, or folder of masks of the same names")
    parser.add_argument("--box", action="append", metavar="X0,Y0,X1,Y1", help="box of the object")
    parser.add_argument("--point", action="append", metavar="X,Y", help="point on the object")
    parser.add_argument(
        "--background-point", action="append", metavar="X,Y", help="point beside the object"
    )
    parser.add_argument(
        "--generator",
        default="default",
        metavar="NAME_OR_PATH",
        help="embedded generator or weight file (default: %(default)s)",
    )
    parser.add_argument("--epsilon", type=float, default=8, help="budget inside, in grey levels")
    parser.add_argument("--epsilon-bg", type=float, default=2, help="budget outside")
    parser.add_argument(
        "--format", choices=("png", "same", "jpeg"), default="png", help="jpeg loses protection"
    )
    parser.add_argument(
        "--keep-suffix", action="store_true", help="write under the input's own name"
    )
    parser.add_argument(
        "--restart", action="store_true", help="make again what an earlier run has made"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--noise", action="store_true", help="write the amplified noise as well")
    parser.add_argument("--dry-run", action="store_true", help="check the call, write nothing")
    return parser


def _prompts(options: argparse.Namespace) -> Any:
    """The prompts of a call."""
    from unseg.protection.reading.given_pictures import GivenPrompts

    kinds = [n for n in ("mask", "box", "point") if getattr(options, n)]
    if len(kinds) > 1:
        raise UserError(f"--{kinds[0]} and --{kinds[1]}: give one kind of prompt")
    if options.background_point and not options.point:
        raise UserError("--background-point: needs a --point on the object too")
    boxes = [_numbers(text, 4, "--box") for text in options.box or ()]
    inside = [_numbers(text, 2, "--point") for text in options.point or ()]
    outside = [_numbers(text, 2, "--background-point") for text in options.background_point or ()]
    return GivenPrompts(
        mask=options.mask,
        boxes=np.array(boxes) if boxes else None,
        points=np.array(inside + outside) if inside else None,
        labels=np.array([1] * len(inside) + [0] * len(outside)) if inside else None,
    )


def _overrides(options: argparse.Namespace, has_folder: bool) -> list[str]:
    """The call as configuration. Single pictures are always made anew; folders resume."""
    kind = next((k for k in ("mask", "box", "point") if getattr(options, k)), "whole")
    values = {
        "data.format": "folder",
        "data.root": ".",
        "output.dir": str(options.output),
        "output.format": options.format,
        "output.noise": options.noise,
        "generator.path": options.generator,
        "noise.epsilon": options.epsilon,
        "noise.epsilon_bg": options.epsilon_bg,
        "run.device": options.device,
        "prompt.kind": "points" if kind == "point" else kind,
        # Boxes and points lie in no file whose checksum could show that they have changed.
        "run.restart": options.restart or not has_folder or kind in ("box", "point"),
        "output.keep_suffix": options.keep_suffix,
        "run.dry_run": options.dry_run,
    }
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _numbers(text: str, count: int, flag: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        shape = "x0,y0,x1,y1" if count == 4 else "x,y"
        raise UserError(f"{flag} {text}: must be {shape} in pixels")
    return numbers


def _line(entry: dict[str, Any], folder: Path) -> str:
    """What became of one picture."""
    if entry["status"] == "failed":
        return f"{entry['key']}: FAILED: {entry['reason']}"
    if entry["status"] == "kept":
        return f"{entry['key']}: kept from an earlier run"
    if entry["status"] == "unprotected":
        return f"{folder / entry['output']}: copied, nothing to protect in it"
    psnr = "-" if entry["psnr"] is None else f"{entry['psnr']:.2f} dB"
    inside, outside = entry["budget"]
    text = (
        f"{folder / entry['output']}: PSNR {psnr}, changed by at most {entry['linf_inside']:g} of "
        f"{inside:g} levels inside and {entry['linf_outside']:g} of {outside:g} outside; region "
        f"{100 * entry['region_share']:.1f} % ({entry['region']})"
    )
    return "\n".join([text, *(f"  note: {note}" for note in entry.get("notes", ()))])
