"""Published weights: a table of files, and fetching them with pooch.

Meta ends the names of its Segment Anything files with the first six hexadecimal digits of their
MD5, and lists such digits for the MAE files; those are checked against accidents. Against tampering
a full SHA-256 is checked where one is known. Neither matters for safety: weights never run code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.utils.errors import UserError

PARENT_DIR = Path("pretrained_checkpoint")
"""Where published weights are kept."""

_CHUNK = 1 << 20
_TIMEOUT = 30.0


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


def download(source: Source, folder: str | Path, *, progress: bool = False) -> Path:
    """Fetch a file into a folder; a verified file is kept as it is.

    The file appears under its name only when it is complete and verified. A download that breaks
    off leaves nothing and starts again from the beginning.

    Args:
        source: what to fetch.
        folder: where to; made if missing.
        progress: draw a progress line on standard error.

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
    import pooch
    from requests import HTTPError, RequestException

    connection = pooch.HTTPDownloader(progressbar=progress, chunk_size=_CHUNK, timeout=_TIMEOUT)

    def fetch(url: str, temporary: str, caller: Any) -> None:
        connection(url, temporary, caller)
        if fault := verify(source, Path(temporary)):
            raise UserError(f"{url}: {fault}; removed what arrived. {_by_hand(source, path)}")

    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(source.url, None, source.name, path.parent, downloader=fetch)
        path.chmod(0o644)  # pooch's temporary file is closed to everyone else
    except HTTPError as error:
        answer = error.response
        assert answer is not None
        raise UserError(
            f"{source.url}: the server answered {answer.status_code} {answer.reason}. "
            f"{_by_hand(source, path)}"
        ) from None
    except RequestException as error:
        raise UserError(
            f"{source.url}: not fetched ({_root_cause(error)}); running it again starts from the "
            f"beginning. {_by_hand(source, path)}"
        ) from None
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


def _root_cause(error: BaseException) -> str:
    """What the innermost of a chain of errors says, without the wrapping."""
    while error.__context__ is not None:
        error = error.__context__
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


def _by_hand(source: Source, path: Path) -> str:
    size = f" ({source.size:,} bytes)" if source.size else ""
    return f"Without a connection: fetch {source.url} elsewhere and put it at {path}{size}"
