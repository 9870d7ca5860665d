"""Compare a data set on the disk with its configuration, before hours are spent on it.

    unseg data check configs/generate/pascal.yaml data.root=VOCdevkit/VOC2012
    unseg data check configs/generate/coco.yaml --quick          # headers and labels only

Every fault is one line; the last lines count them. docs/DATASETS.md says how each data set is laid
out. Exit code 1 if there is any fault, 2 if the configuration or a list cannot be read at all.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from unseg.commands._run import EXIT_DONE, EXIT_SOME_FAILED, user_errors
from unseg.config.dataset import DatasetConfig
from unseg.config.load import load_sections
from unseg.data.annotations import AnnotationSource, Item, build_source
from unseg.data.annotations.base import Annotation, ClassIdError
from unseg.data.annotations.coco import JsonSource
from unseg.data.annotations.tree import scan_images
from unseg.io.decode import image_size
from unseg.io.pictures import read_picture
from unseg.utils.errors import UserError

FAULTS = ("path", "missing", "unreadable", "wrong ids", "wrong size", "extra", "wrong number")
"""Kinds of faults, in the order in which they are counted."""

_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """The part of a configuration that this command reads."""

    data: DatasetConfig
    """The data set."""


@dataclass
class Report:
    """What was found.

    Attributes:
        items: number of images that the configuration names.
        faults: (kind of `FAULTS`, message).
        notes: remarks that are not faults.
        num_empty: labels without an object; such images are copied unprotected.
    """

    items: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_empty: int = 0


def check_data(config: DatasetConfig, *, is_quick: bool = False, num_workers: int = 2) -> Report:
    """Open every label, and every image unless `is_quick`, and list what is wrong.

    Args:
        config: the data set.
        is_quick: read of images the header alone.
        num_workers: threads; decoding releases Python's lock.
    """
    source = build_source(config)
    items = source.items()
    report = Report(items=len(items))
    queue = iter(items)
    with ThreadPoolExecutor(num_workers) as pool:
        while chunk := list(islice(queue, _CHUNK)):
            for faults, is_empty in pool.map(lambda i: _check_item(source, i, is_quick), chunk):
                report.faults += faults
                report.num_empty += is_empty
    report.faults += [("extra", f"{p}: a label without an image") for p in _spare_labels(source)]
    if isinstance(source, JsonSource) and source.index.num_orphans:
        orphans = f"{source.index.num_orphans} annotations of images that it does not list"
        report.faults.append(("wrong ids", f"{source.index.path}: {orphans}"))
    if config.expected_items is not None and len(items) != config.expected_items:
        found = f"{config.root}: {len(items)} images, {config.expected_items} as published"
        hint = "set data.expected_items=null for a part of the data set"
        report.faults.append(("wrong number", f"{found}; {hint}"))
    if spare := _unlisted_images(config, items):
        report.notes.append(f"{spare} images below {config.images} are not used")
    return report


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg data check` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="unseg data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="check")
    check = commands.add_parser("check", help="compare a disk with a configuration")
    check.add_argument("config", metavar="CONFIG", help="YAML file of configs/generate")
    check.add_argument("overrides", metavar="key=value", nargs="*", help="data.key=value")
    check.add_argument("--quick", action="store_true", help="do not decode the images")
    check.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    call = parser.parse_args(argv)
    config = load_sections(DataSection, call.config, call.overrides).data
    report = check_data(config, is_quick=call.quick, num_workers=max(call.workers, 1))
    _print(report)
    return EXIT_SOME_FAILED if report.faults else EXIT_DONE


def _print(report: Report) -> None:
    for kind, message in sorted(report.faults, key=lambda f: FAULTS.index(f[0])):
        print(f"{kind}: {message}")
    for note in report.notes:
        print(f"note: {note}")
    counts = Counter(kind for kind, _ in report.faults)
    found = ", ".join(f"{counts[kind]} {kind}" for kind in FAULTS if counts[kind])
    print(f"{report.items} images, {report.num_empty} without an object: {found or 'no fault'}")


def _check_item(
    source: AnnotationSource, item: Item, is_quick: bool
) -> tuple[list[tuple[str, str]], bool]:
    """Faults of one image and its label, and whether the label is empty."""
    if item.fault is not None:
        return [("path", item.fault)], False
    faults = []
    sizes: tuple[tuple[int, int], ...] | None = None
    if not item.image_path.is_file():
        faults.append(("missing", f"{item.image_path}: no such image"))
    else:
        try:
            if is_quick:
                size = image_size(item.image_path)
                sizes = (size, size[::-1])  # the header's turn is not looked at
            else:
                picture = read_picture(item.image_path)
                sizes = (picture.size, picture.stored_size)
        except UserError as error:
            faults.append(("unreadable", str(error)))
        if faults and not isinstance(item.label, Path | int):
            return faults, False  # without a label of its own, the image's fault would come twice
    try:
        annotation = source.read(item)
    except UserError as error:
        return [*faults, (_kind(error, item), str(error))], False
    if sizes is not None and annotation.size not in sizes:
        found = f"label is {annotation.size}, the image {sizes[0]} (H, W)"
        faults.append(("wrong size", f"{item.image_path}: {found}"))
    return faults, _is_empty(annotation)


def _is_empty(annotation: Annotation) -> bool:
    return annotation.has_region and all(s.is_crowd for s in annotation.segments)


def _kind(error: UserError, item: Item) -> str:
    if isinstance(error, ClassIdError):
        return "wrong ids"
    if isinstance(item.label, Path) and not item.label.is_file():
        return "missing"
    return "missing" if str(error).endswith("no such file") else "unreadable"


def _spare_labels(source: AnnotationSource) -> Iterator[Path]:
    """Label pictures that no image refers to, where all images of a folder are used."""
    items = source.items()
    config: DatasetConfig | None = getattr(source, "config", None)
    if config is None or not items or not all(isinstance(i.label, Path) for i in items):
        return
    used = {i.label for i in items}
    folders = [(p.labels, p.list_file) for p in config.parts] or [(config.labels, config.list_file)]
    for folder, list_file in folders:
        if folder is None or list_file is not None:
            continue
        labels = Path(config.root) / folder
        for name in scan_images(labels, config.label_ending):
            if labels / name not in used:
                yield labels / name


def _unlisted_images(config: DatasetConfig, items: Sequence[Item]) -> int:
    """Number of pictures in the images' folder that a list or a JSON file does not name."""
    if config.parts or config.images == "." or (not config.list_file and not config.annotations):
        return 0
    used = {item.key for item in items}
    folder = Path(config.root) / config.images
    return sum(name not in used for name in scan_images(folder, config.image_ending))
