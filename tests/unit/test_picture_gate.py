"""The gate of picture files: what is no regular file, or too large, is refused unread."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounded import refusals
from PIL import Image

from unseg.io.files import check_regular
from unseg.utils.errors import UserError

READERS = {
    "image_size": "from unseg.io.decode import image_size",
    "read_rgb": "from unseg.io.decode import read_rgb",
    "read_labels": "from unseg.io.decode import read_labels",
    "read_picture": "from unseg.io.pictures import read_picture",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, str | None]]:
    """Files, and what their refusal must say."""
    folder = tmp_path_factory.mktemp("gate")
    pipe, device, sparse, whole, listening = (
        folder / f"{name}.png" for name in ("pipe", "device", "sparse", "whole", "socket")
    )
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    Image.new("RGB", (5, 4)).save(sparse)
    os.truncate(sparse, 6 << 30)
    Image.new("RGB", (5, 4)).save(whole)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(listening))
    regular = "is a pipe, socket or device, not a regular file"
    yield {
        pipe: regular,
        device: regular,
        listening: regular,
        sparse: "has 6,442,450,944 bytes, more than 1,500,000,000",
        folder / "missing.png": "no such file",
        folder: "is a folder, not a file",
        whole: None,
    }
    server.close()


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_refuses_by_kind_and_size_before_it_reads(
    files: dict[Path, str | None], reader: str
) -> None:
    found = refusals(READERS[reader], f"{reader}(path)", list(files), memory=200 << 20, seconds=5)
    for (path, wanted), message in zip(files.items(), found, strict=True):
        if wanted is None:
            assert message is None
        else:
            assert message is not None, path
            assert message.startswith(f"{path}: {wanted}"), message


def test_checksums_wait_for_no_pipe(files: dict[Path, str | None]) -> None:
    pipe = next(iter(files))
    (message,) = refusals("from unseg.io.files import sha256_file", "sha256_file(path)", [pipe])
    assert message is not None
    assert "not a regular file" in message


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(UserError, match="no file can have such a name"):
        check_regular(Path("a\0b"))
