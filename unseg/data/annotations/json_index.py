"""A COCO-style JSON file kept as positions in the file instead of as Python objects.

`instances_train2017.json` (118,000 images, 860,000 objects, 450 MB) needs several GB once parsed.
Here one pass finds where each annotation lies; the few of an image are parsed when it is read. What
the pass over a large file found is kept on the disk, for later runs and for processes beside this.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unseg.data.annotations.base import ClassIdError
from unseg.data.known_headers import cache_folder
from unseg.io.files import atomic_write_bytes
from unseg.io.locks import locked
from unseg.utils.errors import UserError

_decode = json.JSONDecoder().raw_decode
MIN_BYTES = 8_000_000
"""Smaller files are passed over in a second, and what was found in them is not kept."""
RULES = 1
"""Raised when the pass begins to find something else in the same file."""
_SPACE = " \t\r\n"
_BOM = b"\xef\xbb\xbf".decode("latin-1")


class JsonIndex:
    """Images and categories of a COCO-style file, and where the annotations of each image lie.

    Attributes:
        images: one tuple (id, file name, height, width) an image; malformed parts are None.
        categories: the parsed list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[tuple[Any, Any, Any, Any]] = []
        self.categories: list[dict[str, Any]] = []
        kept = _kept_at(path)
        if kept is None:
            self._pass_over(path)
            return
        try:
            with locked(kept.parent, wait=True, name=f"{kept.stem}.lock"):
                if not self._take(kept):
                    self._pass_over(path)
                    atomic_write_bytes(kept, self._packed())
        except OSError:  # nothing can be kept there
            self._pass_over(path)

    def _packed(self) -> bytes:
        lists = json.dumps([self.images, self.categories, self.num_orphans]).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            lists=np.frombuffer(lists, np.uint8),
            spans=self._spans,
            starts=self._starts,
        )
        return buffer.getvalue()

    def _take(self, kept: Path) -> bool:
        """Whether an earlier pass over the same file was kept, and is now taken up."""
        try:
            with np.load(kept, allow_pickle=False) as arrays:
                images, self.categories, self.num_orphans = json.loads(bytes(arrays["lists"]))
                self.images = [tuple(image) for image in images]
                self._spans, self._starts = arrays["spans"], arrays["starts"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        return True

    def _pass_over(self, path: Path) -> None:
        self.images, self.categories = [], []
        owners: list[Any] = []
        spans: list[tuple[int, int]] = []
        text = _read_latin1(path)
        try:
            for key, value, start, end in _elements(text):
                if key == "images" and isinstance(value, dict):
                    name, size = value.get("file_name"), (value.get("height"), value.get("width"))
                    self.images.append((value.get("id"), name, *size))
                elif key == "annotations" and isinstance(value, dict):
                    owners.append(value.get("image_id"))
                    spans.append((start, end))
                elif key == "categories":
                    self.categories.append(json.loads(text[start:end].encode("latin-1")))
        except (ValueError, IndexError, RecursionError) as error:
            raise UserError(f"{path}: not a complete JSON file: {error}") from None
        if not self.images:
            raise UserError(f"{path}: has no list of `images`; is it a COCO file?")
        self._sort_annotations(owners, spans)

    def _sort_annotations(self, owners: list[Any], spans: list[tuple[int, int]]) -> None:
        """Positions grouped by image: `_spans[_starts[i]:_starts[i + 1]]` belong to image i."""
        positions = {image[0]: i for i, image in enumerate(self.images) if _hashable(image[0])}
        rows = [positions.get(o, -1) if _hashable(o) else -1 for o in owners]
        owner_rows = np.array(rows, np.int64)
        order = np.argsort(owner_rows, kind="stable")
        self._spans = np.array(spans, np.int64).reshape(-1, 2)[order]
        self._starts = np.searchsorted(owner_rows[order], np.arange(len(self.images) + 1))
        self.num_orphans = int((owner_rows < 0).sum())

    def annotations(self, position: int) -> list[dict[str, Any]]:
        """The annotations of the image at this position of `images`, in the file's order."""
        spans = self._spans[self._starts[position] : self._starts[position + 1]]
        with self.path.open("rb") as file:
            return [_parse_at(file, int(start), int(end), self.path) for start, end in spans]


def _kept_at(path: Path) -> Path | None:
    """Where the index of a file is kept; None for a small one, and for one that is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if found.st_size < MIN_BYTES:
        return None
    key = f"{RULES} {path.resolve()} {found.st_size} {found.st_mtime_ns}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_folder() / "json" / f"{name}.npz"


def _parse_at(file: Any, start: int, end: int, path: Path) -> dict[str, Any]:
    file.seek(start)
    try:
        return dict(json.loads(file.read(end - start)))
    except ValueError:
        raise UserError(f"{path}: was changed while it was in use; start again") from None


def _read_latin1(path: Path) -> str:
    """The file with one character a byte, so that positions in the text are positions in it."""
    try:
        return path.read_bytes().decode("latin-1")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; see docs/DATASETS.md") from None
    except OSError as error:
        raise UserError(f"{path}: not readable: {error.strerror or error}") from None


def _elements(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """(key, element, start, end) for each element of each top-level list of an object."""
    position = _expect(text, len(_BOM) if text.startswith(_BOM) else 0, "{")
    if text[position] == "}":
        return
    while True:
        key, position = _decode(text, position)
        position = _expect(text, position, ":")
        if text[position] == "[":
            position = yield from _list_elements(text, key, _skip(text, position + 1))
        else:
            _, position = _decode(text, position)
        position = _skip(text, position)
        if text[position] == "}":
            return
        position = _expect(text, position, ",")


def _list_elements(
    text: str, key: str, position: int
) -> Generator[tuple[str, Any, int, int], None, int]:
    if text[position] == "]":
        return position + 1
    while True:
        value, end = _decode(text, position)
        yield key, value, position, end
        position = _skip(text, end)
        if text[position] == "]":
            return position + 1
        position = _expect(text, position, ",")


def _skip(text: str, position: int) -> int:
    while text[position] in _SPACE:
        position += 1
    return position


def _expect(text: str, position: int, mark: str) -> int:
    """Position of the first character behind `mark` and white space."""
    position = _skip(text, position)
    if text[position] != mark:
        raise ValueError(f"expected {mark!r} at byte {position}")
    return _skip(text, position + 1)


def _hashable(value: Any) -> bool:
    return isinstance(value, int | str | float)


@contextlib.contextmanager
def faults_of(place: str) -> Iterator[None]:
    """Turn what a malformed entry raises into a UserError about `place`."""
    try:
        yield
    except ClassIdError as error:
        raise ClassIdError(f"{place}: {error}") from None
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        text = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{place}: {text}") from None
