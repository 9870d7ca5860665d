"""Downloads from a server on this machine that can break off, refuse and lie."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unseg.commands import weights as command
from unseg.models.formats.download import SOURCES, Source, download
from unseg.utils.errors import UserError

CONTENT = bytes(range(256)) * 1200


class Server(ThreadingHTTPServer):
    """Serves CONTENT the way its attributes say."""

    daemon_threads = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        """Bytes after which the next answers end early; one is used up by each answer."""
        self.asked = 0

    def source(self, **facts: object) -> Source:
        known = {
            "size": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
            "md5_prefix": hashlib.md5(CONTENT).hexdigest()[:6],
        }
        url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        return Source(url=url, use="testing", **{**known, **facts})


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        end = self.server.cuts.pop(0) if self.server.cuts else len(CONTENT)
        self.wfile.write(CONTENT[:end])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_verified_and_a_second_call_asks_nobody(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / "here"
    path = download(server.source(), folder, progress=True)
    assert "307k/307k" in capsys.readouterr().err
    assert path == folder / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o644
    download(server.source(), folder)
    assert server.asked == 1
    assert list(folder.iterdir()) == [path]


def test_a_connection_that_breaks_off_leaves_nothing_and_the_next_call_starts_again(
    server: Server, tmp_path: Path
) -> None:
    server.cuts = [70_000]
    with pytest.raises(UserError, match=r"not fetched \(.*starts from the beginning") as caught:
        download(server.source(), tmp_path)
    assert f"put it at {tmp_path / 'weights.pth'}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert download(server.source(), tmp_path).read_bytes() == CONTENT
    assert server.asked == 2


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/weights\.pth: cannot be written: "):
        download(server.source(), tmp_path / "file")


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
    assert err.startswith("http://127.0.0.1:9/other.pth: not fetched (Connection refused)")
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
