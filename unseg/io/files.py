"""Files at the edge of the program: atomic writes, whole reads, checksums, safe paths, folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from unseg.utils.errors import UserError

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp", re.DOTALL)
"""Names of files that are not complete (see `temporary_beside`)."""

MAX_BYTES = 1_500_000_000
"""Largest picture file read: more than the largest picture takes with four channels of 16 bits."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class FileContent:
    """A file that was read once: hashed and decoded from memory.

    Attributes:
        path: names it in messages.
        data: its bytes.
    """

    path: Path
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """An open file that takes its name only when it is complete and on the disk.

    Args:
        path: final name; an existing file is replaced. Its folder must exist.
        mode: "wb", or "w" for UTF-8 text.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise _write_error(path, error) from None
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            raise _write_error(path, error) from None
        raise
    _sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path`, for a file that takes the name `path` once complete."""
    start = os.fsencode(path.name)[:64].decode(errors="ignore")  # a name has at most 255 bytes
    return path.with_name(f".{start}.{secrets.token_hex(6)}.tmp")


def remove_temporary(folder: Path) -> int:
    """Remove what killed runs left unfinished below a folder; returns how many files.

    Only for a folder that no other process writes into.
    """
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if TEMPORARY.fullmatch(name):
                (Path(place) / name).unlink(missing_ok=True)
                count += 1
    return count


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part."""
    with atomic_write(path) as file:
        file.write(data)


def link_or_copy(source: Path, target: Path) -> None:
    """The same content under a new name: a hard link, or a copy where the disk has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def atomic_copy(source: Path, target: Path) -> None:
    """Copy a file so that a reader of the target sees the old content or the new, never a part.

    Raises:
        UserError: the source cannot be read, or the target not written (a full disk).
    """
    temporary = temporary_beside(target)
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # A full disk, too, is reported with the name of the source first.
        is_source = error.filename == str(source) and error.filename2 is None
        if is_source and error.errno not in _FULL_DISK:
            raise read_error(source, error) from None
        raise _write_error(target, error) from None


def read_file(path: str | Path | FileContent) -> FileContent:
    """The whole of a picture file; what was read already is given back as it is.

    Raises:
        UserError: it is missing, no regular file, larger than `MAX_BYTES`, or unreadable.
    """
    if isinstance(path, FileContent):
        return path
    path = Path(path)
    try:
        check_regular(path, max_bytes=MAX_BYTES)
        return FileContent(path, path.read_bytes())
    except OSError as error:
        raise read_error(path, error) from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: it is missing, no regular file, or unreadable.
    """
    try:
        check_regular(Path(path))
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(Path(path), error) from None


def check_regular(path: Path, *, max_bytes: int | None = None) -> None:
    """Refuse what reading would wait for, or never end to read, before it is opened.

    Links are followed: what counts is what a reader would get. A folder passes; opening it says so.

    Raises:
        UserError: a pipe, socket or device, or a file of more than `max_bytes`.
        OSError: it is missing or cannot be looked at.
    """
    try:
        found = path.stat()
    except ValueError:  # a NUL character
        raise UserError(f"{str(path)!r}: no file can have such a name") from None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path}: is a pipe, socket or device, not a regular file; leave it out")
    if max_bytes is not None and found.st_size > max_bytes:
        raise UserError(
            f"{path}: has {found.st_size:,} bytes, more than {max_bytes:,}; make it smaller or "
            "leave it out"
        )


def path_below(root: str | Path, relative: str | Path) -> Path:
    """The path of `relative` below `root`; symbolic links on the way may lead anywhere.

    For what the user's own configuration names. What a list or an annotation names goes through
    `resolve_inside`.

    Raises:
        UserError: it is absolute or climbs with `..`.
    """
    text = str(relative)
    parts = PurePosixPath(text).parts + PureWindowsPath(text).parts
    if "\0" in text or Path(text).is_absolute() or PureWindowsPath(text).drive or ".." in parts:
        raise UserError(f"{text!r}: must be a path below {root}, without '..'")
    return Path(root) / text


def resolve_inside(
    root: str | Path, relative: str | Path, *, links_to: Iterable[str | Path] = ()
) -> Path:
    """The path of `relative` below `root`.

    Args:
        root: folder that the path must not leave.
        relative: what a list, an annotation or a manifest says.
        links_to: further folders that a symbolic link may lead to.

    Raises:
        UserError: it is absolute, climbs with `..`, or leaves these folders through a symbolic
            link.
    """
    path = path_below(root, relative)
    target = path.resolve()
    if not any(target.is_relative_to(Path(folder).resolve()) for folder in (root, *links_to)):
        raise UserError(f"{str(relative)!r}: leads out of {root} through a symbolic link")
    return path


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "choose another output.dir"
        raise UserError(f"{path}: cannot be made: {error.strerror or error}; {remedy}") from None


def free_bytes(folder: Path) -> int:
    """Space left on the disk of a folder that need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_writable(folder: Path) -> None:
    """Make the output folder and write into it.

    Raises:
        UserError: either fails.
    """
    make_folder(folder)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: is not writable; choose another output.dir")


def read_error(path: Path, error: OSError) -> UserError:
    """One line for a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path}: is a folder, not a file")
    return UserError(f"{path}: cannot be read: {error.strerror or error}")


def _write_error(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: cannot be written: the folder {path.parent} does not exist")
    remedy = "; free some space and run again" if error.errno in _FULL_DISK else ""
    return UserError(f"{path}: cannot be written: {error.strerror or error}{remedy}")


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a power cut, where the file system can promise it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
