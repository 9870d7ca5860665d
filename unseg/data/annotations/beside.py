"""What lies in a folder beside the pictures that its data set takes: nothing is left in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from unseg.data.annotations.base import Item
from unseg.io.files import TEMPORARY, check_regular
from unseg.io.kinds import START_BYTES, picture_format, unread_kind
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.utils.errors import UserError

MAX_FOLDERS = 100_000
"""Folders of one data set. Links may make a tree without end of a few folders."""

NOT_A_PICTURE, OTHER_ENDING = "not a picture", "without data.image_ending"


@dataclass(frozen=True)
class Beside:
    """Files and folders of a data set that its list of images does not name.

    Attributes:
        items: pictures by content, whose suffix does not say so; and, with their fault, pictures
            that cannot be taken and folders that cannot be read.
        others: (name, `NOT_A_PICTURE` or `OTHER_ENDING`) of all else.
    """

    items: list[Item] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)


def walk(folder: Path, faults: list[Item] | None = None) -> Iterator[str]:
    """POSIX paths of the files below a folder, sorted; links are followed.

    Args:
        folder: where to begin.
        faults: takes folders that cannot be read, and links that lead to a folder above.
    """
    faults = [] if faults is None else faults
    yield from _walk(str(folder), "", (), faults, [0])


def _walk(
    folder: str, prefix: str, above: tuple[str, ...], faults: list[Item], count: list[int]
) -> Iterator[str]:
    def fault(reason: str) -> None:
        path = Path(folder)
        faults.append(
            Item(key=prefix.rstrip("/") or ".", image_path=path, fault=f"{path}: {reason}")
        )

    place = os.path.realpath(folder)
    if place in above:
        fault("is a link to a folder that it lies in; remove it")
        return
    count[0] += 1
    if count[0] > MAX_FOLDERS:
        if count[0] == MAX_FOLDERS + 1:
            fault(f"is the folder number {MAX_FOLDERS + 1} of this data set; split it")
        return
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        fault(f"cannot be read: {error.strerror or error}")
        return
    yield from (prefix + name for name, is_folder in found if not is_folder)
    for name, is_folder in found:
        if is_folder:
            inner = f"{folder}/{name}", f"{prefix}{name}/", (*above, place)
            yield from _walk(*inner, faults, count)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it says so
        return False


def is_named_picture(name: str, ending: str | None = None) -> bool:
    """Whether a file is taken for a picture by its name, a path or the last part of one."""
    name = name.rpartition("/")[2]
    if name.startswith(".") or name.endswith(".tmp"):
        return False
    return name.endswith(ending) if ending else name.lower().endswith(PICTURE_SUFFIXES)


def look_beside(
    folder: Path,
    ending: str | None = None,
    *,
    label_of: Callable[[str], Path | None] = lambda name: None,
) -> Beside:
    """Everything below a folder that `is_named_picture` does not take.

    Args:
        folder: the images' folder.
        ending: `data.image_ending`: what pictures must end with.
        label_of: the label of a picture's name.
    """
    beside = Beside()
    for name in walk(folder, beside.items):
        if is_named_picture(name, ending):
            continue
        path = folder / name
        try:
            kind, unread = kind_of(path)
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            fault = f"{path}: cannot be read: {reason}" if reason else str(error)
            beside.items.append(Item(key=name, image_path=path, fault=fault))
            continue
        if ending and (kind or unread or is_named_picture(name)):
            beside.others.append((name, OTHER_ENDING))
        elif kind:
            beside.items.append(Item(key=name, image_path=path, label=label_of(name)))
        elif unread:
            fault = f"{path}: a picture of the kind {unread}, which is not read; convert it to PNG"
            beside.items.append(Item(key=name, image_path=path, fault=fault))
        else:
            beside.others.append((name, NOT_A_PICTURE))
    return beside


def kind_of(path: Path) -> tuple[str | None, str | None]:
    """(format that is read, kind of picture that is not) of a file by its first bytes.

    Raises:
        OSError: it cannot be opened.
        UserError: a pipe, socket or device.
    """
    check_regular(path)
    if TEMPORARY.fullmatch(path.name):
        return None, None
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    unread = unread_kind(start, PurePosixPath(path.name).suffix.lower())
    return (None, unread) if unread else (picture_format(start), None)
