"""One browser window's pictures: a folder, what is drawn on them, what came out of them.

Windows share nothing but the generator: every one has a folder with a name that cannot be guessed
below the page's own, which is removed when the window closes, and with the page at the latest.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from unseg.data.annotations.base import Item
from unseg.io.pictures import read_picture
from unseg.page.marks import Marks
from unseg.page.proving import ProofRun
from unseg.utils.errors import UserError

_SENSOR_MARGIN = 1.05
"""Cameras sold as 24 megapixels store up to 24.5."""


@dataclass(frozen=True)
class Limits:
    """What a window may upload.

    Attributes:
        megapixels: of one picture.
        megabytes: of one file.
        num_pictures: in one window.
    """

    megapixels: float = 24
    megabytes: float = 200
    num_pictures: int = 100

    @property
    def max_pixels(self) -> int:
        """Pixels of one picture."""
        return int(self.megapixels * _SENSOR_MARGIN * 1e6)

    @property
    def max_bytes(self) -> int:
        """Bytes of one file."""
        return int(self.megabytes * 1e6)

    @property
    def most_bytes(self) -> int:
        """Bytes of all files of the page, beyond which nothing is uploaded."""
        return self.num_pictures * self.max_bytes


@dataclass
class Upload:
    """One picture of a window.

    Attributes:
        key: its name, unique within the window; also in the manifest.
        path: a copy of the uploaded bytes.
        size: (H, W), upright.
        notes: what decoding had to convert.
        kind: for people: "8-bit colour with transparency".
        marks: what is drawn on it.
        entry: its manifest entry once it is protected.
        output: the protected file.
        cached: what `protecting.Preview` keeps for the live figures.
    """

    key: str
    path: Path
    size: tuple[int, int]
    notes: tuple[str, ...]
    kind: str
    marks: Marks = field(default_factory=Marks)
    entry: dict[str, Any] | None = None
    output: Path | None = None
    cached: Any = None

    @property
    def item(self) -> Item:
        """As an image of a data set."""
        return Item(key=self.key, image_path=self.path, label=self.size)

    def take(self, marks: Marks) -> None:
        """New marks; what was made of other ones is forgotten."""
        if marks != self.marks:
            self.marks = marks
            self.entry = self.output = None


class Session:
    """One window's state; take `lock` to use it.

    Args:
        folder: its own, removed by `close`.
        limits: of uploads.

    Attributes:
        uploads: its pictures by key, in the order of their upload.
        temporary: the web server's own copies of what was uploaded.
        proof: the last one of its pictures, under way or over.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self.uploads: dict[str, Upload] = {}
        self.temporary: set[Path] = set()
        self.lock = threading.RLock()
        self.proof: ProofRun | None = None
        self._downloads = self._proofs = 0

    @property
    def output(self) -> Path:
        """Folder of the protected pictures and their manifest."""
        return self.folder / "protected"

    def add(self, path: Path, name: str | None = None) -> Upload:
        """Take a picture in.

        Args:
            path: the uploaded file; it is copied.
            name: how the user calls it; None: the file's name.

        Raises:
            UserError: it is no picture, too large, or one too many.
        """
        name = PurePath(name or path.name).name.lstrip(".") or "picture"
        if len(self.uploads) >= self.limits.num_pictures:
            raise UserError(
                f"{name}: a window holds at most {self.limits.num_pictures} pictures; use "
                "`unseg protect` for more"
            )
        if path.stat().st_size > self.limits.max_bytes:
            raise UserError(f"{name}: is larger than {self.limits.megabytes:g} MB")
        key = self._unused(name)
        copy = self.folder / "originals" / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        try:
            picture = read_picture(copy, max_pixels=self.limits.max_pixels)
        except UserError as error:
            copy.unlink()
            raise UserError(self._message(str(error), copy, name)) from None
        kind = f"{8 * picture.pixels.dtype.itemsize}-bit {'grey' if picture.is_grey else 'colour'}"
        extras = [
            text
            for text, is_there in (
                ("transparency", picture.alpha is not None),
                ("colour profile", picture.icc is not None),
            )
            if is_there
        ]
        self.uploads[key] = Upload(
            key=key,
            path=copy,
            size=picture.size,
            notes=(
                *picture.notes,
                *(("turned upright as its EXIF tag says",) if picture.orientation > 1 else ()),
            ),
            kind=kind + (f" with {' and '.join(extras)}" if extras else ""),
        )
        return self.uploads[key]

    def upload(self, key: str | None) -> Upload:
        """The picture of that name; raises UserError where there is none."""
        if key not in self.uploads:
            raise UserError("choose a picture first")
        return self.uploads[str(key)]

    def download_folder(self) -> Path:
        """A new folder, so that no browser shows an older file of the same address."""
        self._downloads += 1
        folder = self.folder / "downloads" / str(self._downloads)
        folder.mkdir(parents=True)
        old = self.folder / "downloads" / str(self._downloads - 2)
        shutil.rmtree(old, ignore_errors=True)
        return folder

    def proof_folder(self) -> Path:
        """The name of a new folder; an earlier proof's is removed."""
        shutil.rmtree(self.folder / f"proof-{self._proofs}", ignore_errors=True)
        self._proofs += 1
        return self.folder / f"proof-{self._proofs}"

    def close(self) -> None:
        """Stop what runs for this window and remove everything of it from the disk."""
        with self.lock:
            if self.proof is not None:
                self.proof.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.uploads.clear()

    def _unused(self, name: str) -> str:
        """The name, numbered where its stem is taken: outputs carry the stem."""
        stems = {PurePath(key).stem.casefold() for key in self.uploads}
        stem, suffix = PurePath(name).stem, PurePath(name).suffix
        number, found = 2, stem
        while found.casefold() in stems:
            found = f"{stem}-{number}"
            number += 1
        return found + suffix

    def _message(self, text: str, path: Path, name: str) -> str:
        """An error with the user's name of the file, and a remedy that this page has."""
        limit = f"more than {self.limits.megapixels:g} megapixels; make it smaller, or start "
        limit += "`unseg demo` with a higher --max-megapixels"
        text = text.replace(str(path), name)
        exact = f"more than {self.limits.max_pixels}; make it smaller"
        return text.replace(exact, limit)


class Sessions:
    """All windows of one page.

    Args:
        folder: the page's own.
        limits: of uploads.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, window: str) -> Session:
        """The session of a window, made on its first call."""
        with self._lock:
            if window not in self._sessions:
                folder = self.folder / f"window-{secrets.token_hex(16)}"
                self._sessions[window] = Session(folder, self.limits)
            return self._sessions[window]

    def close(self, window: str) -> None:
        """Forget a window; no error where there is none."""
        with self._lock:
            session = self._sessions.pop(window, None)
            if session is None:
                return
            # Two windows that upload the same bytes share gradio's file of them.
            others = [one.temporary for one in self._sessions.values()]
            for path in session.temporary.difference(*others):
                path.unlink(missing_ok=True)
        session.close()

    def close_all(self) -> None:
        """Forget all windows."""
        for window in list(self._sessions):
            self.close(window)


def reduced(pixels: np.ndarray, side: int, *, interpolation: int) -> np.ndarray:
    """(H, W[, C]) pixels whose longer side is at most `side`, ratio kept."""
    import cv2

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(pixels, size, interpolation=interpolation)
    return small[:, :, None] if small.ndim < pixels.ndim else small
