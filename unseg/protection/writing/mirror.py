"""The mirror of a whole data set: its other files beside the protected images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Item
from unseg.data.annotations.tree import trusted_folders
from unseg.io.files import atomic_copy, atomic_write_bytes, make_folder, resolve_inside
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.protection.writing.output_paths import NOISE_FOLDER, RECORDS, OutputPaths
from unseg.utils.errors import UserError


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


def mirror(layout: OutputPaths, data: DatasetConfig, items: Sequence[Item]) -> int:
    """Put the other files of a data set beside its protected images; returns how many.

    Pictures of the images' folders that the list does not name are left out: whoever publishes the
    mirror must not publish them by mistake. List files and JSON take the new names of the images.
    """
    root = Path(data.root)
    images = {layout.relative(i.key): i for i in items if i.fault is None}
    originals = {(PurePosixPath(layout.base) / i.key).as_posix() for i in images.values()}
    labels = {_below(root, i.label) for i in images.values() if isinstance(i.label, Path)}
    renamed = _renamed(layout, items, data)
    rewritten = set(_named_files(data))
    count = 0
    present = {name for name in labels if (root / name).is_file()}
    for name in sorted({*_own_files(root, data), *present}):
        if name in RECORDS or name.startswith(f"{NOISE_FOLDER}/"):
            continue
        is_image = name in originals or (name not in labels and _is_unlisted(name, data))
        if is_image or name in images:
            continue
        target = resolve_inside(layout.folder, name)
        make_folder(target.parent)
        if renamed and name in rewritten:
            atomic_write_bytes(target, _rewritten(root / name, renamed))
        else:
            _place(root / name, target, layout.output.annotations)
        count += 1
    return count


def _is_unlisted(name: str, data: DatasetConfig) -> bool:
    """Whether a file is a picture in an images' folder, and in no labels' folder."""
    if PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
        return False
    parts = data.parts or (data,)
    for part in parts:
        if part.labels and _lies_in(name, part.labels):
            return False
    return any(_lies_in(name, part.images) for part in parts)


def _lies_in(name: str, folder: str) -> bool:
    return PurePosixPath(name).is_relative_to(PurePosixPath(folder))


def _own_files(root: Path, data: DatasetConfig) -> Iterator[str]:
    """Files of the root and of the configured folders, which may be links.

    Any other link out of these is no part of the data set, and readers would refuse it.
    """
    folders = trusted_folders(data)
    targets = [folder.resolve() for folder in folders]
    for folder in folders:
        if not folder.is_relative_to(root):
            continue
        for place, _, names in os.walk(folder):
            for path in (Path(place) / name for name in names):
                target = path.resolve()
                if path.is_file() and any(target.is_relative_to(t) for t in targets):
                    yield _below(root, path)
    for name in _named_files(data):
        if (root / name).is_file():
            yield name


def _below(root: Path, path: Path) -> str:
    return PurePosixPath(os.path.relpath(path, root)).as_posix()


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
