"""Fetching published weights: resumable, verified, and complete or absent under the final name.

Meta ends the names of its Segment Anything files with the first six hexadecimal digits of their
MD5, and lists such digits for the MAE files; those are checked against accidents. Against tampering
a full SHA-256 is checked where one is known. Neither matters for safety: weights never run code.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TRIES = 5
"""Connections in a row that bring nothing before giving up."""
_PAUSE = 1.0
"""Seconds to wait after the first such connection; one more after each further one."""
_TIMEOUT = 30.0

Watch = Callable[[int, int | None], None]
"""Told the bytes at hand and the bytes in all, if known."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published file.

    Attributes:
        url: where it lies.
        use: what it is for, in a few words.
        size: bytes; None where unknown.
        sha256: full checksum; None where unknown.
        md5_prefix: first digits of the MD5.
    """

    url: str
    use: str
    md5_prefix: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rsplit("/", 1)[-1]


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"

SOURCES: dict[str, Source] = {
    "sam_vit_b": Source(
        url=_SAM + "sam_vit_b_01ec64.pth",
        use="frozen part of the vit_b generator",
        md5_prefix="01ec64",
        size=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam_vit_l": Source(
        url=_SAM + "sam_vit_l_0b3195.pth",
        use="frozen part of the vit_l generator",
        md5_prefix="0b3195",
    ),
    "sam_vit_h": Source(
        url=_SAM + "sam_vit_h_4b8939.pth",
        use="frozen part of the vit_h generator",
        md5_prefix="4b8939",
    ),
    "mae_vit_b": Source(
        url="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
        use="start of the vit_b surrogate's encoder (CC BY-NC 4.0)",
        md5_prefix="8cad7c",
    ),
}


def download(source: Source, folder: str | Path, *, watch: Watch | None = None) -> Path:
    """Fetch a file into a folder, continuing an earlier attempt; a verified file is kept as it is.

    What has arrived lies in `NAME.part` until it is complete and verified.

    Args:
        source: what to fetch.
        folder: where to; made if missing.
        watch: called after every chunk.

    Returns:
        Path of the complete file.

    Raises:
        UserError: no connection, no space, or the file is not the published one. The message says
            what to put where by hand.
    """
    path = Path(folder) / source.name
    if path.is_file():
        fault = verify(source, path)
        if fault:
            raise UserError(f"{path}: {fault}; move it away and run again")
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(source, part, watch)
        fault = verify(source, part)
        if fault:
            part.unlink()
            raise UserError(
                f"{source.url}: {fault}; removed what arrived. {_by_hand(source, path)}"
            )
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def verify(source: Source, path: Path) -> str | None:
    """What is wrong with a file that should be this one; None if nothing."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        return f"has {size:,} bytes, the published file has {source.size:,}"
    with path.open("rb") as file:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    if source.sha256 is not None and sha256.hexdigest() != source.sha256:
        return f"has sha256 {sha256.hexdigest()}, the published file has {source.sha256}"
    if not md5.hexdigest().startswith(source.md5_prefix):
        return f"has md5 {md5.hexdigest()}, the published file's begins {source.md5_prefix}"
    return None


def _fetch(source: Source, part: Path, watch: Watch | None) -> None:
    """Bring `part` to the server's full length, over as many connections as it takes."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(source.url, part, watch):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise UserError(
                    f"{source.url}: the server answered {error.code} {error.reason}. "
                    f"{_by_hand(source, part.with_suffix(''))}"
                ) from None
            reason = f"the server answered {error.code} {error.reason}"
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            if before == 0 and not part.exists():
                raise UserError(
                    f"{source.url}: cannot be reached ({reason}). "
                    f"{_by_hand(source, part.with_suffix(''))}"
                ) from None
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= _TRIES:
            raise UserError(
                f"{source.url}: stopped at {after:,} bytes ({reason}), kept in {part}; run again "
                f"to go on. {_by_hand(source, part.with_suffix(''))}"
            )
        _log.info("%s: %s at %d bytes, going on", source.url, reason, after)
        time.sleep(_PAUSE * failures)


def _continue(url: str, part: Path, watch: Watch | None) -> bool:
    """One connection; returns whether `part` is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "unseg"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # Nothing lies beyond what is here: complete, or longer than the file and so not its.
            if _total(error.headers.get("Content-Range")) == have:
                return True
            part.unlink()
            return False
        raise
    with response:
        resumes = response.status == http.client.PARTIAL_CONTENT
        if resumes and _first(response.headers.get("Content-Range")) != have:
            raise http.client.HTTPException("the server sent another range than asked for")
        have = have if resumes else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumes else "wb") as file:
            have = _copy(response, file, have, total, watch)
            file.flush()
            os.fsync(file.fileno())
    return total is None or have == total


def _copy(
    response: IO[bytes], file: IO[bytes], have: int, total: int | None, watch: Watch | None
) -> int:
    """Append what the connection brings; returns the bytes now at hand."""
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        have += len(chunk)
        if watch is not None:
            watch(have, total)
    return have


def _first(content_range: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _total(content_range: str | None) -> int | None:
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _by_hand(source: Source, path: Path) -> str:
    size = f" ({source.size:,} bytes)" if source.size else ""
    return f"Without a connection: fetch {source.url} elsewhere and put it at {path}{size}"
