"""Files of a data set that are no image of the list: what each is, and which a mirror copies."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations.base import Item
from unseg.data.annotations.beside import kind_of
from unseg.data.annotations.tree import trusted_folders
from unseg.io.files import atomic_write_bytes, sha256_file
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.utils.errors import UserError

OTHER_FILES = "other_files.jsonl"

COPIED = "copied unchanged"
UNLISTED = "not copied: a picture outside of the list"
SAME = "not copied: the same as an image of the list"
LINK_OUT = "not copied: a link out of the data set"
LINKED_FOLDER = "not copied: a linked folder"
UNREADABLE = "not copied: cannot be read"


def write_other_files(folder: Path, found: Iterable[tuple[str, str]]) -> None:
    """Write `other_files.jsonl`, a line with each file and what became of it; none, no file.

    Args:
        folder: the output folder.
        found: (name, what it is).
    """
    lines = [json.dumps({"file": name, "what": what}) for name, what in found]
    path = folder / OTHER_FILES
    if lines:
        atomic_write_bytes(path, ("\n".join(lines) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def count_other_files(folder: Path) -> Counter[str]:
    """How many files `other_files.jsonl` names of each kind."""
    path = folder / OTHER_FILES
    if not path.is_file():
        return Counter()
    try:
        return Counter(json.loads(line)["what"] for line in path.read_bytes().splitlines())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it") from None


@dataclass(frozen=True)
class DataSetFiles:
    """Judges the files below the root of a data set that is mirrored.

    Attributes:
        data: the data set.
        items: its images, those that failed too.
        base: folder of the images below the root, POSIX.
        copies_unlisted: pictures outside of the list are copied.
    """

    data: DatasetConfig
    items: Sequence[Item]
    base: str
    copies_unlisted: bool

    def judged(self) -> Iterator[tuple[str, str | None]]:
        """(name below the root, what becomes of it) of each file, sorted; of images None."""
        root = Path(self.data.root)
        images = {(PurePosixPath(self.base) / item.key).as_posix() for item in self.items}
        labels = {_below(root, i.label) for i in self.items if isinstance(i.label, Path)}
        clean = _Clean(self.items)
        found = dict(_files(self.data))
        found |= {name: None for name in labels if (root / name).is_file()}
        for name, fault in sorted(found.items()):
            path = root / name
            if name in images:
                yield name, None
            elif fault is not None:
                yield name, fault
            elif name in labels:
                yield name, COPIED
            elif clean.holds(path):
                yield name, SAME
            elif self.copies_unlisted or self._is_label(name) or not _is_picture(path):
                yield name, COPIED
            else:
                yield name, UNLISTED

    def _is_label(self, name: str) -> bool:
        """Whether a file lies in a folder of labels, by the deepest configured folder above it."""
        if self.data.label_ending is not None and name.endswith(self.data.label_ending):
            return True
        parts = self.data.parts or (self.data,)
        places = [(part.images, False) for part in parts]
        places += [(part.labels, True) for part in parts if part.labels is not None]
        above = [
            (len(PurePosixPath(folder).parts), not is_label, is_label)
            for folder, is_label in places
            if PurePosixPath(name).is_relative_to(PurePosixPath(folder))
        ]
        depth, _, is_label = max(above, default=(0, True, False))
        return is_label and depth > 0


class _Clean:
    """Knows the images of the list by their content, wherever they lie a second time."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._by_size: dict[int, list[Path]] = {}
        self._hashes: dict[Path, str] = {}
        for item in items:
            if item.image_path.is_file():
                size = item.image_path.stat().st_size
                self._by_size.setdefault(size, []).append(item.image_path)

    def holds(self, path: Path) -> bool:
        same_size = self._by_size.get(path.stat().st_size, [])
        if any(path.samefile(other) for other in same_size):
            return True
        return bool(same_size) and self._hash(path) in map(self._hash, same_size)

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_file(path)
        return self._hashes[path]


def _files(data: DatasetConfig) -> Iterator[tuple[str, str | None]]:
    """(name, None or why it is no part of the data set) of what lies in its folders.

    The root and the configured folders may be links. Any other link out of these is no part of the
    data set, and readers would refuse it.
    """
    root, folders = Path(data.root), trusted_folders(data)
    targets = [folder.resolve() for folder in folders]
    configured = {os.path.normpath(folder) for folder in folders}
    faults: list[tuple[str, str | None]] = []

    def note(error: OSError) -> None:
        faults.append((_below(root, Path(error.filename)), UNREADABLE))

    for folder in folders:
        if not folder.is_relative_to(root):
            continue
        for place, inner, names in os.walk(folder, onerror=note):
            for path in (Path(place) / name for name in inner):
                if path.is_symlink() and os.path.normpath(path) not in configured:
                    yield _below(root, path), LINKED_FOLDER
            for path in (Path(place) / name for name in names):
                yield _below(root, path), _fault_of(path, targets)
    for name in (data.annotations, data.list_file, *(part.list_file for part in data.parts)):
        if name and (root / name).is_file():
            yield PurePosixPath(name).as_posix(), None
    yield from faults


def _fault_of(path: Path, targets: Sequence[Path]) -> str | None:
    if not path.is_file():
        return UNREADABLE
    place = path.resolve()
    return None if any(place.is_relative_to(target) for target in targets) else LINK_OUT


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return True
    try:
        return any(kind_of(path))
    except (OSError, UserError):
        return True  # nobody can say, so it is not published


def _below(root: Path, path: Path) -> str:
    return PurePosixPath(os.path.relpath(path, root)).as_posix()
