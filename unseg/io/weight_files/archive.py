"""The zip archive of a torch file, judged by its directory before anything of it is read.

`torch.save` stores its records without compression, side by side. So what a record says it holds
lies in the file, and no archive takes more memory than its own size; any other is refused.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from unseg.io.weight_files.unpickling import MAX_PICKLE_BYTES, DamagedError, check_pickle

MAX_DIRECTORY_BYTES = 16 << 20
"""About 150 thousand records."""

_END, _END64 = struct.Struct("<4s8xLLH"), struct.Struct("<4s36xQQ")
_LOCATOR_BYTES = 20
_NO_VALUE = 0xFFFFFFFF


class ProgramError(ValueError):
    """The archive carries a program (TorchScript)."""


def check_archive(path: Path) -> None:
    """Refuse an archive that asks for more than it holds, or that carries a program.

    Raises:
        ProgramError: it is a TorchScript archive.
        ForbiddenError: its pickle asks for more than tensors and plain containers.
        DamagedError: it is incomplete, compressed, or promises more than it holds.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    size = path.stat().st_size
    directory = _directory_bytes(path, size)
    if directory > MAX_DIRECTORY_BYTES:
        raise DamagedError(f"its directory of {directory:,} bytes is too long")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        # torch before 2.6 ran such archives even where only weights were asked for.
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise ProgramError
        if any(r.compress_type != zipfile.ZIP_STORED or r.flag_bits & 1 for r in records):
            raise DamagedError("it is compressed, as torch.save never does")
        total = sum(max(record.file_size, record.compress_size) for record in records)
        if total > size:
            raise DamagedError(f"its records promise {total:,} bytes")
        # Torch looks for names in any case, and takes the folder of the first record.
        if len({name.lower() for name in names}) != len(names):
            raise DamagedError("it holds several records of one name")
        top = names[0].split("/")[0] if names else ""
        pickle = next((r for r in records if r.filename == f"{top}/data.pkl"), None)
        if pickle is None:
            raise DamagedError("it has no data.pkl")
        if pickle.file_size > MAX_PICKLE_BYTES:
            raise DamagedError(f"its pickle of {pickle.file_size:,} bytes is too long")
        prefix = f"{top}/data/"
        storages = {
            record.filename.removeprefix(prefix): record.file_size
            for record in records
            if record.filename.startswith(prefix)
        }
        check_pickle(archive.read(pickle), storages)


def _directory_bytes(path: Path, size: int) -> int:
    """Length of the directory, from the record at the end of the file."""
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size - _LOCATOR_BYTES - 56))
        tail = file.read()
    if len(tail) < _END.size:
        raise DamagedError("it is cut off")
    mark, length, offset, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\x05\x06" or comment:
        raise DamagedError("its end is missing")
    has_long_form = tail[-_END.size - _LOCATOR_BYTES :].startswith(b"PK\x06\x07")
    if not has_long_form:
        if _NO_VALUE in (length, offset):
            raise DamagedError("its directory is missing")
        return int(length)
    mark, length, _ = _END64.unpack(tail[: _END64.size])
    if mark != b"PK\x06\x06":
        raise DamagedError("its directory is missing")
    return int(length)
