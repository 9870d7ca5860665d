"""Images and label pictures found by folder, by list file, or by parts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from unseg.config.dataset import DatasetConfig, PartConfig
from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.beside import Beside, is_named_picture, look_beside, walk
from unseg.io.files import path_below, read_file, resolve_inside
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.utils.errors import UserError

LINK_REMEDY = "if the link is your own, name the folder that it leads to in data.links_to"
"""For whoever laid a data set out by links, file by file."""


class TreeSource:
    """Common part of the adapters whose labels are one picture an image."""

    has_labels = True

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config
        self.root = existing_folder(config.root)
        self._items = self._find_items()

    def _find_items(self) -> tuple[Item, ...]:
        return find_items(self.config)

    def items(self) -> Sequence[Item]:
        """All images in a fixed order, each once."""
        return self._items

    def beside(self) -> Beside:
        """What lies in folders that are read without a list, beside the images."""
        return find_beside(self.config, with_labels=self.has_labels)

    def read(self, item: Item) -> Annotation:
        """The label of one image; raises UserError naming file and fault."""
        if item.fault is not None:
            raise UserError(item.fault)
        if item.label is None:
            return self._read(item)
        file = read_file(item.label)
        return replace(self._read(replace(item, label=file)), label_file=file)

    def _read(self, item: Item) -> Annotation:
        """The label, whose file is read already: `item.label` is its `FileContent`, or None."""
        raise NotImplementedError

    @property
    def class_names(self) -> dict[int, str]:
        """Name of every class id, in rising order."""
        names = self.config.class_names or self.config.colours
        if names:
            return dict(enumerate(names))
        return {i: f"class {i}" for i in range(self.config.num_classes or 0)}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def thing_ids(self) -> frozenset[int]:
        """Class ids of countable objects."""
        return frozenset(self.config.things)


class Inside:
    """`resolve_inside` for many files of few folders: each folder is resolved once.

    Args:
        root: folder that no path may leave.
        links_to: further folders that symbolic links may lead to; None: anywhere. The latter is
            for names found in the folder itself: whoever made it put its links there.
    """

    def __init__(self, root: Path, links_to: Iterable[str | Path] | None = ()) -> None:
        self.root = root
        self._links_to = None if links_to is None else tuple(links_to)
        self._checked: set[str] = set()

    def path(self, relative: str) -> Path:
        """The path below the root; raises UserError where it leads out."""
        path = self.root / relative
        folder, _, name = relative.rpartition("/")
        is_known = folder in self._checked and name not in ("", ".", "..")
        is_plain = is_known and not {"\\", ":", "\0"} & set(name)
        if is_plain and (self._links_to is None or not path.is_symlink()):
            return path
        if self._links_to is None:
            path = path_below(self.root, relative)
        else:
            try:
                path = resolve_inside(self.root, relative, links_to=self._links_to)
            except UserError as error:
                hint = f"; {LINK_REMEDY}" if path.is_symlink() else ""
                raise UserError(f"{error}{hint}") from None
        if not path.is_symlink():  # a link may lead back from a folder that lies elsewhere
            self._checked.add(folder)
        return path


def trusted_folders(config: DatasetConfig) -> tuple[Path, ...]:
    """Where links of files that a list or a JSON file names may lead: the configured folders."""
    root = Path(config.root)
    places = [(config.images, config.labels), *((p.images, p.labels) for p in config.parts)]
    names = sorted({name for place in places for name in place if name is not None})
    return (root, *(path_below(root, name) for name in names), *map(Path, config.links_to))


def twin_folder(config: DatasetConfig, root: Path) -> Inside:
    """A folder elsewhere that holds the images once more under the same names.

    Links in it are followed as in the data set's own folders: anywhere where a scan found the
    names, else to the configured folders.
    """
    lists = (config.annotations, config.list_file, *(part.list_file for part in config.parts))
    is_listed = any(name is not None for name in lists)
    return Inside(root, trusted_folders(config) if is_listed else None)


def existing_folder(path: str | Path) -> Path:
    """The path, if it is a folder."""
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; see docs/DATASETS.md, then set data.root")
    return path


def find_items(config: DatasetConfig, *, with_labels: bool = True) -> tuple[Item, ...]:
    """The images of a data set with the paths of their label pictures, each image once."""
    parts, base = _parts(config)
    found: dict[str, Item] = {}
    for part in parts:
        for item in _items_of_part(config, part, base=base, with_labels=with_labels):
            found.setdefault(item.key, item)
    if not found:
        where = Path(config.root) / (config.list_file or parts[0].images)
        raise UserError(f"{where}: names no image; see docs/DATASETS.md")
    return tuple(found.values())


def find_beside(config: DatasetConfig, *, with_labels: bool = True) -> Beside:
    """What lies in folders that are read without a list; names are as keys of images."""
    parts, base = _parts(config)
    found = Beside()
    for part in parts:
        if part.list_file is not None:
            continue
        images = path_below(config.root, part.images)
        labels = images if part.labels is None else path_below(config.root, part.labels)
        prefix = PurePosixPath(os.path.relpath(images, Path(config.root) / base))

        def label_of(name: str, labels: Path = labels) -> Path | None:
            return labels / _label_name(labels, name, config) if with_labels else None

        beside = look_beside(images, config.image_ending, label_of=label_of)
        found.others.extend(((prefix / name).as_posix(), kind) for name, kind in beside.others)
        found.items.extend(
            replace(item, key=(prefix / item.key).as_posix()) for item in beside.items
        )
    return found


def _parts(config: DatasetConfig) -> tuple[Sequence[PartConfig], str]:
    """The parts of a data set, and the folder that keys are relative to."""
    if config.parts:
        return config.parts, "."
    part = PartConfig(images=config.images, labels=config.labels, list_file=config.list_file)
    return (part,), config.images


def scan_images(folder: Path, ending: str | None = None) -> Iterator[str]:
    """POSIX paths of the pictures below a folder, sorted; links are followed, loops are not."""
    return (name for name in walk(folder) if is_named_picture(name, ending))


def _items_of_part(
    config: DatasetConfig, part: PartConfig, *, base: str, with_labels: bool
) -> Iterator[Item]:
    root = Path(config.root)
    images = existing_folder(path_below(root, part.images))
    labels = images if part.labels is None else path_below(root, part.labels)
    prefix = PurePosixPath(os.path.relpath(images, root / base))
    lines: Iterable[tuple[str, str | None]]
    links_to: tuple[Path, ...] | None
    if part.list_file is None:
        lines = ((name, None) for name in scan_images(images, config.image_ending))
        links_to = None
    else:
        lines = _read_list(path_below(root, part.list_file))
        links_to = trusted_folders(config)
    in_root, in_images, in_labels = (Inside(f, links_to) for f in (root, images, labels))
    for line, label in lines:
        try:
            if label is not None:  # a pair: both are relative to the root
                image_path, label_path = in_root.path(line), in_root.path(label)
                key = PurePosixPath(os.path.relpath(root / line, root / base)).as_posix()
            else:
                name = _image_name(images, line, config.image_ending)
                image_path = in_images.path(name)
                key = (prefix / PurePosixPath(name)).as_posix()
                label_path = in_labels.path(_label_name(labels, name, config))
            if key.startswith("../"):
                raise UserError(f"{line!r}: lies outside of the images' folder {root / base}")
        except UserError as error:
            place = f"{part.list_file}: " if part.list_file else ""
            yield Item(key=line, image_path=images, fault=f"{place}{error}")
            continue
        yield Item(key=key, image_path=image_path, label=label_path if with_labels else None)


def _read_list(path: Path) -> Iterator[tuple[str, str | None]]:
    """(image or stem, None) or (image, label) of each line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such list file; see docs/DATASETS.md") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a text file: {error}") from None
    for line in map(str.strip, lines):
        words = line.split("\t") if "\t" in line else line.split()
        if len(words) == 2 and all(w.lower().endswith(PICTURE_SUFFIXES) for w in words):
            yield words[0].strip(), words[1].strip()
        elif line:
            yield line, None


def _image_name(images: Path, line: str, ending: str | None) -> str:
    """File name below `images` of a line that may be a stem."""
    if line.lower().endswith(PICTURE_SUFFIXES) and not (ending and not line.endswith(ending)):
        return line
    if ending:
        return line + ending
    return _with_suffix(images, line, default=".jpg")


def _label_name(labels: Path, image_name: str, config: DatasetConfig) -> str:
    ending = config.image_ending or PurePosixPath(image_name).suffix
    stem = image_name.removesuffix(ending)
    if config.label_ending is not None:
        return stem + config.label_ending
    return _with_suffix(labels, stem, default=".png")


def _with_suffix(folder: Path, stem: str, *, default: str) -> str:
    """`stem` with the suffix of the file that exists; the default one where none does."""
    below = PurePosixPath(stem)
    if below.is_absolute() or ".." in below.parts:
        return stem + default  # refused by `resolve_inside`; no folder outside is listed
    suffix = _suffixes(folder / below.parent).get(below.name)
    return stem + (suffix or default)


@lru_cache(maxsize=64)
def _listing(folder: str, changed: int) -> dict[str, str]:
    del changed  # part of the cache's key: a folder that has changed is listed again
    found: dict[str, str] = {}
    for name in sorted(entry.name for entry in os.scandir(folder)):
        stem, dot, suffix = name.rpartition(".")
        if dot and f".{suffix.lower()}" in PICTURE_SUFFIXES:
            found.setdefault(stem, f".{suffix}")
    return found


def _suffixes(folder: Path) -> dict[str, str]:
    """Stem -> suffix of the pictures of a folder."""
    try:
        return _listing(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return {}
