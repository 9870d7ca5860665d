"""The mirror of a whole data set: its other files beside the protected images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Item
from unseg.io.files import atomic_copy, atomic_write_bytes, make_folder, resolve_inside
from unseg.protection.writing.other_files import COPIED, DataSetFiles
from unseg.protection.writing.output_paths import NOISE_FOLDER, RECORDS, OutputPaths
from unseg.utils.errors import UserError

REWRITTEN = "copied with the new names"


def check_mirror(layout: OutputPaths, items: Iterable[Item], root: Path) -> None:
    """Refuse an image whose output has the name of another file of the data set (its label).

    Raises:
        UserError: naming both.
    """
    for item in items:
        if item.fault is not None or layout.name_of(item.key) == item.key:
            continue
        other = root / layout.relative(item.key)
        if other.exists():
            raise UserError(
                f"{item.key}: its output would replace {other} in the mirrored data set; set "
                "output.keep_suffix=true"
            )


def mirror(
    layout: OutputPaths, data: DatasetConfig, items: Sequence[Item]
) -> list[tuple[str, str]]:
    """Put the other files of a data set beside its protected images.

    Pictures outside of the list are left out, unless `output.copy_unlisted`: whoever publishes the
    mirror must not publish them by mistake. List files and JSON take the new names of the images.

    Returns:
        (name below the data set's root, what became of it) of each.
    """
    root = Path(data.root)
    outputs = {layout.relative(item.key) for item in items if item.fault is None}
    renamed = _renamed(layout, items, data)
    rewritten = set(_named_files(data))
    files = DataSetFiles(data, items, layout.base, layout.output.copy_unlisted)
    done: list[tuple[str, str]] = []
    for name, what in files.judged():
        if name in RECORDS or name.startswith(f"{NOISE_FOLDER}/"):
            continue
        if what is None or name in outputs:
            continue
        done.append((name, what))
        if what != COPIED:
            continue
        target = resolve_inside(layout.folder, name)
        make_folder(target.parent)
        if renamed and name in rewritten:
            atomic_write_bytes(target, _rewritten(root / name, renamed))
            done[-1] = (name, REWRITTEN)
        else:
            _place(root / name, target, layout.output.annotations)
    return done


def _named_files(data: DatasetConfig) -> Iterator[str]:
    """Files that name images: lists and JSON."""
    named = [data.annotations, data.list_file, *(part.list_file for part in data.parts)]
    yield from (PurePosixPath(name).as_posix() for name in named if name)


def _renamed(layout: OutputPaths, items: Sequence[Item], data: DatasetConfig) -> dict[str, str]:
    """Old name -> new name of images, as lists and JSON may write them."""
    renamed: dict[str, str] = {}
    prefixes = {PurePosixPath(layout.base), *(PurePosixPath(p.images) for p in data.parts)}
    for item in items:
        new = layout.name_of(item.key)
        if item.fault is not None or new == item.key:
            continue
        renamed[item.key] = new
        for prefix in prefixes:
            full, full_new = (PurePosixPath(layout.base) / n for n in (item.key, new))
            renamed[full.as_posix()] = full_new.as_posix()
            if full.is_relative_to(prefix):
                renamed[full.relative_to(prefix).as_posix()] = full_new.relative_to(
                    prefix
                ).as_posix()
    return renamed


def _rewritten(path: Path, renamed: Mapping[str, str]) -> bytes:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        return "".join(_line(line, renamed) for line in text.splitlines(keepends=True)).encode()
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(images, list):
        for image in images:
            if isinstance(image, dict) and image.get("file_name") in renamed:
                image["file_name"] = renamed[image["file_name"]]
    elif isinstance(content, dict):  # boxes and points by image
        content = {renamed.get(key, key): value for key, value in content.items()}
    return json.dumps(content).encode()


def _line(line: str, renamed: Mapping[str, str]) -> str:
    stripped = line.rstrip("\r\n")
    end = line[len(stripped) :]
    if stripped.strip() in renamed:
        return renamed[stripped.strip()] + end
    for separator in ("\t", ",", " "):
        words = stripped.split(separator)
        if len(words) > 1 and words[0].strip() in renamed:
            return separator.join([renamed[words[0].strip()], *words[1:]]) + end
    return line


def _place(source: Path, target: Path, how: str) -> None:
    """Link or copy a file under its final name in one step."""
    if how == "link":
        if target.exists() and target.samefile(source):
            return
        target.unlink(missing_ok=True)
        try:
            # Not a symbolic link: readers refuse paths that lead out of their data set.
            os.link(source.resolve(), target)
            return
        except OSError:
            pass  # another disk
    atomic_copy(source, target)
