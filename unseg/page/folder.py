"""The folder of the page's temporary files: removed at its end, or when the next page starts."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from unseg.io.locks import locked

PREFIX = "unseg-demo-"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder for this process alone; those of processes that died are removed.

    A process holds a lock on its folder while it lives, so that others can tell.
    """
    # Another name until the lock is held: the folder must not be taken for a dead process's.
    new = Path(tempfile.mkdtemp(prefix="unseg-new-"))
    with locked(new, wait=False):
        folder = new.rename(new.with_name(PREFIX + secrets.token_hex(8)))
        try:
            _remove_dead(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_dead(own: Path) -> None:
    """Remove the folders beside `own`, of the same user, on which nobody holds the lock."""
    with locked(own, wait=False) as is_free:
        if is_free:  # locks do not work on this disk: nobody knows who lives
            return
    user = own.stat().st_uid
    for folder in own.parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # removed by another start at the same time
            found = folder.lstat()
            # An older version's has no lock, and may be alive.
            is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == user
            if folder == own or not is_ours or not (folder / "lock").is_file():
                continue
            with locked(folder, wait=False) as is_dead:
                if is_dead:
                    shutil.rmtree(folder, ignore_errors=True)
