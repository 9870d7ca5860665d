"""A proof on a window's own pictures, in a process of its own.

What proves is handed in, as the page knows no victims (`ProofOffer`). It runs in a child, so that
protecting goes on, and so that it can be stopped at once. The child ends with its window and with
the page, also where that is killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseg.utils.errors import UserError
from unseg.utils.logging import Progress

if TYPE_CHECKING:
    from unseg.data.annotations.base import Item
    from unseg.page.marks import Marks
    from unseg.page.session import Upload

_SECONDS = 1.0
"""Between two looks at a child; a window that was closed is noticed at once."""
_NICENESS = 10
"""Protecting, which somebody waits for, goes first."""


@dataclass(frozen=True)
class ProofJob:
    """What a proof works on, and where it writes; plain values, for another process.

    Attributes:
        folder: of its own.
        clean: folder of the clean pictures.
        marked: the pictures and their marks.
    """

    folder: Path
    clean: Path
    marked: tuple[tuple[Item, Marks], ...]

    @property
    def protected(self) -> Path:
        """Folder of the protected pictures as they were at the start, and their manifest."""
        return self.folder / "protected"

    @property
    def masks(self) -> Path:
        """Folder of the masks that the marks stand for."""
        return self.folder / "masks"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "unseg-proof.html"


Prove = Callable[[ProofJob, Callable[[int, int], None]], Sequence[str]]


@dataclass(frozen=True)
class ProofOffer:
    """What a page offers to prove with.

    Attributes:
        prove: takes a job and what to tell (done, total) parts of the work; writes the page and
            returns what it found, in sentences. A function of a module, which the child imports.
        fewest: pictures with an object that it needs.
        cost: of a proof, for people.
    """

    prove: Prove
    fewest: int
    cost: str


@dataclass(frozen=True)
class ProofState:
    """Where a proof stands.

    Attributes:
        text: for people.
        part: of the work that is done, in [0, 1]; None where unknown.
        found: sentences, at the end.
        page: the report, at the end.
        fault: why there is none.
        is_over: this is the last state.
    """

    text: str = ""
    part: float | None = None
    found: tuple[str, ...] = ()
    page: Path | None = None
    fault: str | None = None
    is_over: bool = False


class ProofRun:
    """One proof: waits for its turn, runs, ends.

    Args:
        prove: of the offer.
        job: what it works on.
        turn: held while a proof runs; one runs at a time, whatever the number of windows.
    """

    def __init__(self, prove: Prove, job: ProofJob, turn: threading.Semaphore) -> None:
        self._prove, self.job, self._turn = prove, job, turn
        self._lock = threading.Lock()
        self._process: Any = None
        self.is_over = False

    def states(self) -> Generator[ProofState]:
        """Where it stands, every second until its end. Closing the iterator stops the proof."""
        has_turn = False
        try:
            while not (has_turn or self.is_over):
                has_turn = self._turn.acquire(timeout=_SECONDS)
                if not has_turn:
                    yield ProofState("Waits for the proof of another window.")
            yield from self._running()
        finally:
            self.stop()
            if has_turn:
                self._turn.release()

    def stop(self) -> None:
        """End it now, whatever it does; no error where it has ended."""
        with self._lock:
            self.is_over = True
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def _running(self) -> Iterator[ProofState]:
        connection = self._start()
        if connection is None:
            yield _STOPPED
            return
        yield ProofState("Reads the pictures.")
        progress: Progress | None = None
        with connection:
            while True:
                try:
                    messages = _waiting(connection)
                except (EOFError, OSError):
                    yield self._broken()
                    return
                for kind, value in messages:
                    if kind != "parts":
                        yield self._ended(kind, value)
                        return
                    done, total = value
                    progress = progress or Progress(total, "prove", is_shown=False)
                    progress.update(done - progress.done)
                if progress is not None:
                    yield _under_way(progress)

    def _start(self) -> Connection | None:
        """The child's messages; None where the proof was stopped before."""
        context = multiprocessing.get_context("spawn")
        with self._lock:
            if self.is_over:
                return None
            ours, theirs = context.Pipe(duplex=False)
            # A daemon: should the page end without having stopped it, it ends too.
            process = context.Process(
                target=_child, args=(self._prove, self.job, theirs), name="proof", daemon=True
            )
            with theirs:
                process.start()
            self._process = process
            return ours

    def _ended(self, kind: str, value: Any) -> ProofState:
        if kind == "failed":
            text = str(value).replace(f"{self.job.folder}{os.sep}", "")
            return ProofState(fault=text, is_over=True)
        return ProofState(found=tuple(value), page=self.job.page, is_over=True)

    def _broken(self) -> ProofState:
        """The child is gone without a last word."""
        if self.is_over:
            return _STOPPED
        self._process.join()
        code = self._process.exitcode
        why = "the terminal of `unseg demo` shows why"
        if code < 0:
            why = f"{signal.Signals(-code).name} ended it: perhaps the memory did not suffice"
        return ProofState(fault=f"the proof has failed; {why}", is_over=True)


_STOPPED = ProofState("The proof was stopped.", is_over=True)


def proof_job(folder: Path, uploads: Sequence[Upload]) -> ProofJob:
    """The job of proving what these pictures are protected by.

    Marks and results may change while it runs: their files are linked, which keeps their content.

    Args:
        folder: of its own, not there yet.
        uploads: pictures of one window that are protected, with marks.
    """
    from unseg.io.files import atomic_write_bytes, link_or_copy
    from unseg.protection.writing.manifest import MANIFEST

    job = ProofJob(
        folder=folder,
        clean=uploads[0].path.parent if uploads else folder,
        marked=tuple((upload.item, upload.marks) for upload in uploads),
    )
    job.protected.mkdir(parents=True)
    lines = []
    for upload in uploads:
        assert upload.entry is not None
        assert upload.output is not None
        lines.append(json.dumps(upload.entry) + "\n")
        link_or_copy(upload.output, job.protected / upload.entry["output"])
    atomic_write_bytes(job.protected / MANIFEST, "".join(lines).encode())
    return job


def _waiting(connection: Connection) -> list[tuple[str, Any]]:
    """All messages that are there, after a second at the latest; may be none.

    Raises:
        EOFError: whoever sent them is gone.
    """
    found: list[tuple[str, Any]] = []
    while connection.poll(0 if found else _SECONDS):
        found.append(connection.recv())
        if found[-1][0] != "parts":  # the last one
            break
    return found


def _under_way(progress: Progress) -> ProofState:
    text = f"{100 * progress.part:.0f} % of the work is done"
    left = f", about {progress.left} left" if progress.left else ""
    return ProofState(f"{text}{left}.", part=progress.part)


def _child(prove: Prove, job: ProofJob, connection: Connection) -> None:
    """What the other process does: masks, then the proof; its last message says how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to all; the page sees to its child
    threading.Thread(target=_end_with_the_page, daemon=True).start()
    os.nice(_NICENESS)
    try:
        job.masks.mkdir(exist_ok=True)
        for item, marks in job.marked:
            _write_mask(job.masks, item, marks)
        found = prove(job, lambda done, total: connection.send(("parts", (done, total))))
        connection.send(("done", list(found)))
    except UserError as error:
        connection.send(("failed", str(error)))


def _end_with_the_page() -> None:
    """Nobody is there to stop the child of a page that was killed."""
    page = multiprocessing.parent_process()
    assert page is not None
    page.join()
    os._exit(1)


def _write_mask(folder: Path, item: Item, marks: Marks) -> None:
    """A PNG, 255 on the object, named as `unseg check --masks` wants it."""
    import numpy as np

    from unseg.io.encode import png_bytes
    from unseg.io.files import atomic_write_bytes
    from unseg.io.pictures import read_picture
    from unseg.page.marks import marked_region

    mask = marked_region(read_picture(item.image_path), marks).mask
    path = (folder / item.key).with_suffix(".png")
    atomic_write_bytes(path, png_bytes(mask[..., None] * np.uint8(255)))
