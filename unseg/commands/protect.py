"""Protect single pictures and folders without a configuration file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unseg.commands._run import EXIT_INTERRUPTED, user_errors
from unseg.commands._screen import Screen, add_screen_flags, counted, printable
from unseg.utils.errors import UserError

if TYPE_CHECKING:
    from unseg.protection.writing.summary import Summary

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
    "noise.key": "--key",
}
"""What messages advise to those who have a configuration, and what it is called here."""

_SHOWN = 50
"""Pictures of a folder that get a line of their own; those that failed always do."""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg protect PATH... --output DIR [...]`."""
    options = _parser().parse_args(argv)
    from unseg.utils.logging import setup_messages

    setup_messages()
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
    screen = Screen.of(options)
    told = _Told(screen, options.output)
    try:
        with screen:
            summary = generate(
                config,
                source=source,
                folders=source.folders,
                on_start=told.start,
                on_entry=told.take,
            )
    except KeyboardInterrupt:
        rest = "" if config.run.restart else "; the same command continues with the rest"
        screen.warn(f"interrupted: {told.count} of {counted(told.total, 'picture')} done{rest}")
        return EXIT_INTERRUPTED
    told.end(summary, is_dry_run=options.dry_run)
    return summary.exit_code


class _Told:
    """What the user is told of a run: a line a picture while it runs, and how it ended.

    Args:
        screen: where it is printed.
        folder: the output folder, as the user wrote it.
    """

    def __init__(self, screen: Screen, folder: Path) -> None:
        self.count = self.total = 0
        self._screen, self._folder, self._left_out = screen, folder, 0

    def start(self, total: int) -> None:
        """Before the first picture."""
        self.total = total
        self._screen.bar(total)

    def take(self, entry: dict[str, Any]) -> None:
        """A picture is done."""
        self.count += 1
        self._screen.give(entry)
        has_failed = entry["status"] == "failed"
        if has_failed and self._screen.quiet:
            self._screen.warn(_with_flags(_line(entry, self._folder)))
        elif has_failed or self.count <= _SHOWN:
            colour = {"failed": "red", "kept": "dim"}.get(entry["status"])
            self._screen.say(_with_flags(_line(entry, self._folder)), colour)
        else:
            self._left_out += 1
        self._screen.step()

    def end(self, summary: Summary, *, is_dry_run: bool) -> None:
        """After the last picture."""
        if is_dry_run:
            self._screen.give(summary.as_dict())
            self._screen.say(_forecast(summary))
            return
        if self._left_out:
            self._screen.say(f"... and {self._left_out} more, all listed in manifest.jsonl")
        if summary.total > 1 or summary.beside:
            self._screen.say(_with_flags(_closing(summary)), "red" if summary.failed else "green")


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
    parser.add_argument(
        "--key", metavar="FILE", help="file with a secret, or env:NAME; the noise depends on it"
    )
    parser.add_argument("--epsilon", type=float, default=8, help="budget inside, in grey levels")
    parser.add_argument(
        "--epsilon-bg", type=float, help="budget outside (default: 2, 0 for a pattern)"
    )
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
    add_screen_flags(parser, json_help="print one JSON object a picture, as in manifest.jsonl")
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
        "noise.key": options.key,
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
    key = printable(entry["key"])
    if entry["status"] == "failed":
        where, _, why = entry["reason"].partition(": ")
        reason = why if where.endswith(entry["key"]) else entry["reason"]
        return f"{key}: FAILED: {printable(reason)}"
    if entry["status"] == "kept":
        return f"{key}: kept from an earlier run"
    path = printable(str(folder / entry["output"]))
    if entry["status"] == "unprotected":
        return f"{path}: copied, nothing to protect in it"
    psnr = "-" if entry["psnr"] is None else f"{entry['psnr']:.2f} dB"
    inside, outside = entry["budget"]
    share = f"{100 * entry['region_share']:.1f} %"
    change = f"changed by at most {entry['linf_inside']:g} of {_levels(inside)}"
    if entry["region_share"] < 1:
        change += f" inside and {entry['linf_outside']:g} of {outside:g} outside"
    text = f"{path}: PSNR {psnr}, {change}; region {share} ({entry['region']})"
    return "\n".join([text, *(f"  note: {note}" for note in entry.get("notes", ()))])


def _levels(number: float) -> str:
    return f"{number:g} level" + "s" * (number != 1)


def _forecast(summary: Summary) -> str:
    """What a run would do."""
    lines = [f"{counted(summary.counts['planned'], 'picture')} would be written, nothing was"]
    return "\n".join(lines + [f"missing: {reason}" for _, reason in summary.failures])


def _closing(summary: Summary) -> str:
    """What a run came to."""
    made = summary.counts["protected"]
    parts = [f"{made} protected"]
    if summary.kept:
        parts[0] += f" ({summary.kept} by an earlier run)"
    if summary.counts["unprotected"]:
        parts.append(f"{summary.counts['unprotected']} copied without change")
    if summary.failed:
        parts.append(f"{summary.failed} FAILED")
    pictures = counted(summary.total, "picture")
    text = f"{summary.folder}: {pictures} in {summary.wall_seconds:.1f} s: {', '.join(parts)}"
    if made and summary.psnr_mean is not None:
        text += (
            f"\n  largest change {_levels(summary.linf_inside)} inside, {summary.linf_outside:g} "
            f"outside; PSNR {summary.psnr_mean:.2f} dB in the mean, {summary.psnr_min:.2f} at least"
        )
    beside = [
        f"\n  {counted(n, 'other file')}: {what}" for what, n in sorted(summary.beside.items())
    ]
    return text + "".join(beside)
