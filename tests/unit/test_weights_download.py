"""Downloads from a server on this machine that can cut, refuse and lie."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unseg.commands import weights as command
from unseg.models import download as module
from unseg.models.formats.download import SOURCES, Source, download
from unseg.utils.errors import UserError

CONTENT = bytes(range(256)) * 1200


class Server(ThreadingHTTPServer):
    """Serves CONTENT, with Range, the way its attributes say."""

    daemon_threads = True
    content = CONTENT
    cuts: list[int]
    """Bytes after which the next answers end early; one is used up by each answer."""
    knows_ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts = []
        self.asked: list[str | None] = []

    def source(self, **facts: object) -> Source:
        known = {
            "size": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "md5_prefix": hashlib.md5(CONTENT).hexdigest()[:6],
        }
        url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        return Source(url=url, use="testing", **{**known, **facts})  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        body = self.server.content
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted[6:-1]) if wanted and self.server.knows_ranges else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[start:end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_verified_and_a_second_call_asks_nobody(
    server: Server, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    folder = tmp_path / "made" / "here"
    path = download(server.source(), folder, watch=lambda have, total: seen.append((have, total)))
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    download(server.source(), folder)
    assert server.asked == [None]
    assert list(folder.iterdir()) == [path]


def test_a_cut_connection_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    assert download(server.source(), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_an_earlier_attempt_is_resumed_by_a_later_one(server: Server, tmp_path: Path) -> None:
    server.cuts = [70_000] + [0] * 5
    with pytest.raises(UserError, match=r"stopped at 70,000 bytes .*run again to go on") as caught:
        download(server.source(), tmp_path)
    assert f"put it at {tmp_path / 'weights.pth'}" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth.part"]
    server.asked.clear()
    assert download(server.source(), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=70000-"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [100_000]
    assert download(server.source(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("surplus", [0, 10])
def test_a_part_that_is_complete_or_too_long_ends_well(
    server: Server, tmp_path: Path, surplus: int
) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT + bytes(surplus))
    assert download(server.source(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"sha256": "0" * 64}, "has sha256 [0-9a-f]{64}, the published file has 0000"),
        ({"sha256": None, "md5_prefix": "123456"}, "has md5 .* begins 123456"),
        ({"size": 5}, "has 307,200 bytes, the published file has 5"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused_and_removed(
    server: Server, tmp_path: Path, facts: dict[str, object], fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        download(server.source(**facts), tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    with pytest.raises(UserError, match=f"{fault}.*; move it away and run again"):
        download(server.source(**facts), tmp_path)


def test_a_file_that_the_server_lacks_says_what_to_put_where(
    server: Server, tmp_path: Path
) -> None:
    server.status = 404
    remedy = f"put it at {tmp_path / 'weights.pth'} (307,200 bytes)"
    with pytest.raises(UserError, match="the server answered 404") as caught:
        download(server.source(), tmp_path)
    assert remedy in str(caught.value)


def test_the_command_reports_what_it_fetched_and_fails_with_1_offline(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SOURCES, "good", server.source())
    offline = Source(url="http://127.0.0.1:9/other.pth", use="testing", md5_prefix="00")
    monkeypatch.setitem(SOURCES, "offline", offline)
    assert command.main(["download", "offline", "good", "--to", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert out == f"{tmp_path / 'weights.pth'}: 307,200 bytes, verified, sha256 {digest}\n"
    assert err.startswith("http://127.0.0.1:9/other.pth: cannot be reached (")
    assert f"put it at {tmp_path / 'other.pth'}" in err
    assert err.count("\n") == 1
    assert command.main(["download", "good", "--to", str(tmp_path)]) == 0
    assert command.main(["download", "sam_vit_x"]) == 2
    assert "'sam_vit_x': choose from sam_vit_b, " in capsys.readouterr().err


def test_metas_file_names_end_with_the_digits_that_are_checked() -> None:
    for name, source in SOURCES.items():
        if name.startswith("sam_"):
            assert source.name.endswith(f"_{source.md5_prefix}.pth")
    assert SOURCES["sam_vit_b"].size == 375_042_383
