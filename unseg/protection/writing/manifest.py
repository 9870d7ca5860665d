"""The record of a protected set: one JSON line an image, and what an earlier run has done.

While it runs each rank appends to a part of its own, `manifest.part-R.jsonl`; a line appears only
after the file that it describes has its final name. At the end rank 0 joins all parts, those of
dead runs included, into `manifest.jsonl` in the order of the list.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from unseg.io.files import atomic_write, atomic_write_bytes
from unseg.io.locks import locked
from unseg.utils.errors import UserError

MANIFEST = "manifest.jsonl"
SETTINGS = "run.json"
LOCK = ".unseg.lock"

PROTECTED, UNPROTECTED, FAILED = "protected", "unprotected", "failed"
_DONE = (PROTECTED, UNPROTECTED)

_NUMBERS = ("linf_inside", "linf_outside", "rms", "l2", "region_share", "width", "height")
_TEXTS = ("status", "output", "reason", "input_sha256", "output_sha256")
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXTS, (str,)),
    **dict.fromkeys(_NUMBERS, (int, float)),
    "psnr": (int, float, type(None)),
    "budget": (list, type(None)),
}
"""What fields of an entry must be where they are there."""


@dataclass(frozen=True)
class Earlier:
    """What a manifest says of a finished image; the fields that resuming compares."""

    output: str
    input_sha256: str
    label_sha256: str | None
    output_sha256: str


class Entry(dict[str, Any]):
    """A line of a manifest, which anyone may have edited.

    Args:
        values: the line.
        path: its file, for messages.

    Raises:
        UserError: a known field is of another kind; when it is asked for, that it is missing.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self._path = path
        for name, kinds in _KINDS.items():
            if name in self and not isinstance(self[name], kinds):
                raise self._fault(f"says {name}={_shown(self[name])}")

    def __missing__(self, name: str) -> NoReturn:
        raise self._fault(f"has no {name!r}")

    def _fault(self, what: str) -> UserError:
        return UserError(
            f"{self._path}: the entry of {self['key']!r} {what}; delete its line, and the picture "
            "is made again"
        )


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """JSON as UTF-8; where a name is none (bytes of another coding), with escapes, so as it is."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, allow_nan=False).encode()


def part_name(rank: int) -> str:
    """File that a rank appends to."""
    return f"manifest.part-{rank}.jsonl"


def manifest_files(folder: Path) -> list[Path]:
    """The joined manifest, then the parts of runs that did not end."""
    parts = sorted(folder.glob("manifest.part-*.jsonl"))
    joined = folder / MANIFEST
    return [joined, *parts] if joined.is_file() else parts


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a manifest; a last line cut off by a crash is left out."""
    for _, entry in _numbered(path):
        yield entry


def read_manifest(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The latest entry of every image of a protected set, joined or not.

    Raises:
        UserError: there is no manifest.
    """
    files = manifest_files(Path(folder))
    if not files:
        raise UserError(f"{folder}: has no {MANIFEST}; name the output folder of a generation")
    latest = _latest(files)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")) for path in files]
        for number, offset in latest.values():
            opened[number].seek(offset)
            yield Entry(json.loads(opened[number].readline()), files[number])


def finished(folder: Path) -> dict[str, Earlier]:
    """The images that earlier runs have finished, by key (about 0.5 kB each)."""
    done: dict[str, Earlier] = {}
    for path in manifest_files(folder):
        for entry in entries(path):
            done.pop(entry["key"], None)
            if entry.get("status") in _DONE:
                done[entry["key"]] = Earlier(
                    output=entry["output"],
                    input_sha256=entry["input_sha256"],
                    label_sha256=entry.get("label_sha256"),
                    output_sha256=entry["output_sha256"],
                )
    return done


class PartWriter:
    """Appends entries to a rank's part; each line reaches the system before the next image."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / part_name(rank)
        self._file: IO[bytes] = self.path.open("ab")

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            UserError: the disk is full.
        """
        line = json_bytes(entry) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written: {error.strerror or error}; what is not in it "
                "will be done again by the next run"
            ) from None

    def close(self) -> None:
        """Close the part."""
        with contextlib.suppress(OSError):
            self._file.close()


def join_parts(folder: Path, keys: Iterable[str] = ()) -> None:
    """Write `manifest.jsonl` from all parts and remove them.

    Args:
        folder: the output folder.
        keys: the order of the list; images that it does not name (of earlier runs) come last.
    """
    files = manifest_files(folder)
    parts = [f for f in files if f.name != MANIFEST]
    if not parts and not keys:
        return
    latest = _latest(files)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")) for path in files]
        joined = stack.enter_context(atomic_write(folder / MANIFEST))
        for key in keys:
            _copy_line(latest.pop(key, None), opened, joined)
        for place in latest.values():
            _copy_line(place, opened, joined)
    for part in parts:
        part.unlink()


def forget(folder: Path, keys: Iterable[str]) -> None:
    """Remove the entries of these images, so that they are made again."""
    wanted = set(keys)
    join_parts(folder)
    path = folder / MANIFEST
    if not path.is_file():
        return
    with atomic_write(path) as file:
        for _, entry in _numbered(path):
            if entry["key"] not in wanted:
                file.write(json_bytes(entry) + b"\n")


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other runs out of an output folder.

    Raises:
        UserError: another run holds it.
    """
    with locked(folder, wait=False, name=LOCK) as is_mine:
        if not is_mine:
            raise UserError(
                f"{folder}: another run is writing here; wait for it, or choose another output.dir"
            )
        yield


def check_settings(folder: Path, settings: Mapping[str, Any], *, replace: bool) -> None:
    """Refuse to mix pictures of two settings in one folder; store the settings of a new one.

    Args:
        folder: the output folder.
        settings: flat, by dotted key; plain values.
        replace: take the new settings without a question.

    Raises:
        UserError: the folder was made with others; the message names each key.
    """
    path = folder / SETTINGS
    if path.is_file() and not replace:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            if not isinstance(before, dict):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(
                f"{path}: damaged; set run.restart=true to make the set again, or choose another "
                "output.dir"
            ) from None
        changed = [
            f"{key}: was {_shown(before.get(key))}, is {_shown(settings.get(key))}"
            for key in sorted({*before, *settings})
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise UserError(
                f"{folder}: holds pictures made with other settings ({'; '.join(changed)}); choose "
                "another output.dir, or set run.restart=true"
            )
        return
    atomic_write_bytes(path, json_bytes({"settings": dict(settings)}, indent=1))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 24 else text[:16] + "..." + '"' * text.startswith('"')


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset, entry) of each whole line that is an entry."""
    with path.open("rb") as file:
        while True:
            offset = file.tell()
            line = file.readline()
            if not line:
                return
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("key"), str):
                yield offset, Entry(entry, path)


def _latest(files: list[Path]) -> dict[str, tuple[int, int]]:
    """Key -> (file, offset) of its last line."""
    latest: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(files):
        for offset, entry in _numbered(path):
            latest[entry["key"]] = (number, offset)
    return latest


def _copy_line(place: tuple[int, int] | None, opened: Sequence[IO[bytes]], out: IO[bytes]) -> None:
    if place is None:
        return
    source = opened[place[0]]
    source.seek(place[1])
    out.write(source.readline())
