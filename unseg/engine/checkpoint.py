"""Checkpoints of a run: complete or absent, safe to load, and found again by themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from unseg.io.files import atomic_copy, atomic_write, remove_temporary, temporary_beside
from unseg.io.weight_files.read import read_weight_file
from unseg.models.weights import CHECKPOINT_FORMAT
from unseg.utils.errors import UserError

VERSION = 1
_NAME = re.compile(r"step_(\d{8})\.pt")
_ANOTHER = "name another checkpoint, or delete it and give the same command again"
_log = logging.getLogger(__name__)


class CheckpointFolder:
    """The `checkpoints/` of a run directory: the newest few, and the best by gap.

    Files are `step_00001200.pt`, named by optimiser steps done; `best.pt` is another name of the
    step file with the largest unlearnability gap.

    Args:
        folder: made at the first save.
        keep_last: newest step files kept.
    """

    def __init__(self, folder: Path, *, keep_last: int = 2) -> None:
        self.folder = folder
        self.keep_last = keep_last

    def steps(self) -> list[Path]:
        """Step files, oldest first. Only whole files have such a name."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)]
        return sorted(found, key=lambda p: p.name)

    def latest(self) -> Path | None:
        """The newest step file."""
        return next(reversed(self.steps()), None)

    def remove_unfinished(self) -> None:
        """Remove what killed writes left, each as large as a checkpoint."""
        if count := remove_temporary(self.folder):
            _log.info("%s: removed %d unfinished files of killed runs", self.folder, count)

    def save(self, content: dict[str, Any], *, step: int, is_best: bool = False) -> Path:
        """Write a checkpoint under its final name, then delete what retention does not keep.

        Raises:
            UserError: it cannot be written (a full disk); earlier checkpoints are as they were.
        """
        path = self.folder / f"step_{step:08d}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(path) as file:
                torch.save({"format": CHECKPOINT_FORMAT, "version": VERSION, **content}, file)
        except (OSError, RuntimeError, UserError) as error:
            raise UserError(self._fault(path, error)) from None
        if is_best:
            self._name_best(path)
        for old in self.steps()[: -self.keep_last]:
            old.unlink(missing_ok=True)
        return path

    def _name_best(self, path: Path) -> None:
        """Let `best.pt` mean this file, at no cost in space where the file system has links."""
        best = self.folder / "best.pt"
        temporary = temporary_beside(best)
        try:
            os.link(path, temporary)
        except OSError:
            atomic_copy(path, best)
        else:
            temporary.replace(best)

    def _fault(self, path: Path, error: Exception) -> str:
        free = shutil.disk_usage(self.folder).free / 2**20
        last = self.latest()
        kept = f"{last.name} is intact" if last else "there is no earlier one"
        reason = _first_line(error)
        return (
            f"{path}: checkpoint not written ({reason}; {free:.0f} MiB free on its disk); {kept}: "
            "make room and give the same command again to continue"
        )


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint on the CPU; loading runs no code.

    Raises:
        UserError: the file is missing, damaged, unsafe or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    remedy = "delete it and the run continues from the checkpoint before"
    content = dict(read_weight_file(path, remedy=remedy).content)
    if content.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: not a training checkpoint of this project ({CHECKPOINT_FORMAT})")
    if content.get("version") != VERSION:
        found = content.get("version")
        raise UserError(f"{path}: checkpoint version {found}, this program reads {VERSION}")
    return content


def check_fields(content: Mapping[str, Any], kinds: Mapping[str, type], path: str | Path) -> None:
    """Refuse a checkpoint that lacks what a run needs to continue.

    Args:
        content: the checkpoint.
        kinds: what must be in it, by dotted key.
        path: the file, for the message.

    Raises:
        UserError: naming the key.
    """
    for key, kind in kinds.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            found = "is missing" if value is None else f"is {type(value).__name__}"
            raise UserError(f"{path}: {key} {found}, so no run can continue from it; {_ANOTHER}")


@contextlib.contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Turn what a checkpoint raises that does not fit the run into one line.

    Raises:
        UserError: naming the file and the first fault.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: does not fit this run ({reason}); {_ANOTHER}") from None


def rng_state() -> dict[str, Any]:
    """Torch's global generators. Training draws from derived seeds; this is for what users add."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Undo of `rng_state`; a GPU's state is left alone where there is no GPU."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # another kind of GPU has another kind of state
            torch.cuda.set_rng_state(state["cuda"])


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
