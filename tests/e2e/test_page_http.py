"""The served page over loopback HTTP: the same functions as in a browser, without one."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate_cases import save_generator
from page_cases import KINDS, LOADED, check_archive, connections, make_pictures, served

from unseg.cli import main
from unseg.io.pictures import read_picture
from unseg.models import embedded
from unseg.page.session import Limits

pytest.importorskip("gradio", reason="gradio is missing: pip install -e .[demo]")
pytestmark = pytest.mark.e2e

BOX = {"boxes": [[30, 20, 70, 60]]}
_NAMES = (
    "files", "picture", "canvas", "layer", "mask_text", "psnr", "status", "compare", "download",
    "download_all", "proof_note", "proof_status", "proof_report",
)  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> Iterator[list[str]]:
    with connections() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory, asked) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("page") / "temporary"
    with served(folder, Limits(megapixels=0.5, megabytes=1)) as server:
        yield server
    assert not folder.exists()
    assert asked, "the clients of this module connect"
    outside = [a for a in asked if not ipaddress.ip_address(a).is_loopback]
    assert not outside, f"asked for {outside}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    return make_pictures(tmp_path_factory.mktemp("pictures"))


class Window:
    """What a browser window does, by HTTP."""

    def __init__(self, url: str, folder: Path) -> None:
        from gradio_client import Client

        self.client = Client(url, verbose=False, download_files=str(folder))

    def call(self, name: str, *values: Any) -> dict[str, Any]:
        result = self.client.predict(*values, api_name=f"/{name}")
        return dict(zip(_NAMES, result, strict=True)) if isinstance(result, tuple) else result

    def load(self, *paths: Path) -> dict[str, Any]:
        from gradio_client import handle_file

        return self.call("load", [handle_file(str(path)) for path in paths])

    def mark(self, key: str, marks: dict[str, Any]) -> dict[str, Any]:
        return self.call("mark", json.dumps({"picture": key, "serial": 1, "marks": marks}))


@pytest.fixture(scope="module")
def client_window(server, tmp_path_factory) -> Window:
    return Window(server.url, tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def window(client_window) -> Window:
    """A window of its own: a new session of one client, which is slow to make."""
    client_window.client.reset_session()
    return client_window


def test_pictures_are_loaded_marked_protected_and_downloaded(window, pictures, tmp_path):
    loaded = window.load(*(pictures[name] for name in KINDS))
    assert json.loads(loaded["canvas"])["image"].startswith("data:image/png")
    for text in LOADED:
        assert text in loaded["status"]
    for name in KINDS:
        assert "inside of your boxes" in window.mark(name, BOX)["mask_text"]
    assert "dB" in window.call("strength", "plain.png", 8, 2)
    done = window.call("protect_all", "plain.png", 6, 2)
    changes = check_archive(
        Path(done["download_all"]["value"]), pictures, tmp_path / "all", budget=6
    )
    for name, change in changes.items():
        outside = np.ones(change.shape, bool)
        outside[20:61, 30:71] = False
        assert change[outside].max() <= 2, name
    single = read_picture(done["download"]["value"])
    assert np.array_equal(single.pixels, read_picture(tmp_path / "all/plain.png").pixels)


def test_a_click_becomes_a_mask_and_the_page_says_by_what(window, pictures):
    window.load(pictures["plain.png"])
    answer = window.mark("plain.png", {"points": [[60, 45, 1]]})
    assert "GrabCut made the mask" in answer["mask_text"]
    assert json.loads(answer["layer"])["mask"].startswith("data:image/png")


def test_text_called_a_picture_is_refused_and_the_others_are_taken(window, pictures):
    loaded = window.load(pictures["notes.jpg"], pictures["plain.png"])
    assert "notes.jpg: not a picture of JPEG" in loaded["status"]
    assert json.loads(loaded["canvas"])["picture"] == "plain.png"


def test_two_windows_at_once_do_not_mix(server, window, pictures, tmp_path):
    other = Window(server.url, tmp_path / "other")
    window.load(pictures["plain.png"])
    other.load(pictures["plain.png"], pictures["grey.png"])
    window.mark("plain.png", BOX)
    calls = [
        window.client.submit("plain.png", 8, 2, api_name="/protect"),
        other.client.submit("plain.png", 3, 1, api_name="/protect"),
    ]
    mine, theirs = (dict(zip(_NAMES, call.result(), strict=True)) for call in calls)
    clean = read_picture(pictures["plain.png"]).pixels.astype(int)
    changes = [
        np.abs(read_picture(result["download"]["value"]).pixels - clean).max()
        for result in (mine, theirs)
    ]
    assert changes == [8, 3]
    with zipfile.ZipFile(mine["download_all"]["value"]) as archive:
        assert "grey.png" not in archive.namelist()
    assert "choose a picture" in window.mark("grey.png", BOX)["mask_text"]


def test_uploads_are_bounded_in_bytes_and_pixels(window, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)
    from PIL import Image

    Image.fromarray(noise).save(tmp_path / "heavy.png")
    assert (tmp_path / "heavy.png").stat().st_size > 1e6
    with pytest.raises(Exception, match="(?i)size|413|large"):
        window.load(tmp_path / "heavy.png")
    Image.new("RGB", (800, 700)).save(tmp_path / "wide.png")
    loaded = window.load(tmp_path / "wide.png")
    assert "more than 0.5 megapixels" in loaded["status"]


def _status(server: Any, path: str, body: bytes | None = None, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url + path, body, named)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def test_only_its_own_windows_can_use_the_page(server, pictures):
    before = Counter(server.refused)
    assert _status(server, "config", Host="rebound.example") == 421
    assert _status(server, "", b"", Origin="http://evil.example") == 403
    border = b"--cut\r\nContent-Disposition: form-data; name=files; filename=plain.png\r\n\r\n"
    body = border + pictures["plain.png"].read_bytes() + b"\r\n--cut--\r\n"
    form = {"Content_Type": "multipart/form-data; boundary=cut"}
    files = {path for path in server.sessions.folder.rglob("*") if path.is_file()}
    assert _status(server, "gradio_api/upload", body, **form) == 403
    assert {path for path in server.sessions.folder.rglob("*") if path.is_file()} == files
    cookie = urllib.request.urlopen(server.url).headers["set-cookie"].split(";")[0]
    assert _status(server, "gradio_api/upload", body, **form, Cookie=cookie) == 200
    call = json.dumps({"data": [None]}).encode()
    assert _status(server, "gradio_api/run/load", call, Cookie=cookie) == 403
    assert server.refused - before == {"foreign name": 1, "foreign origin": 1, "no session": 2}


def test_the_page_fetches_no_address_that_is_called_a_file(window, asked):
    address = {"path": "http://192.0.2.1/picture.png", "meta": {"_type": "gradio.FileData"}}
    before = len(asked)
    with pytest.raises(Exception, match="files of this computer only"):
        window.call("load", [address])
    assert "192.0.2.1" not in asked[before:]


def test_files_of_the_machine_are_not_served(server, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, Path("/etc/hostname"), Path(__file__)):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{server.url}gradio_api/file={path}")
        assert error.value.code in (403, 404)


def test_the_page_names_no_other_server(server):
    page = urllib.request.urlopen(server.url).read().decode()
    config = json.loads(urllib.request.urlopen(f"{server.url}config").read())
    assert config["analytics_enabled"] is False
    for stylesheet in ("fonts.googleapis", "cdn.", "unpkg", "jsdelivr"):
        assert stylesheet not in page
        assert stylesheet not in json.dumps(config)
    assert "does not stop models that exist already" in json.dumps(config)


def test_the_command_serves_loopback_and_cleans_up_when_stopped(tmp_path):
    port = _free_port()
    generator = save_generator(tmp_path / "generator.safetensors")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    call = ["--generator", str(generator), "--device", "cpu", "--port", str(port), "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unseg.cli", "demo", *call],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"The page is at http://127.0.0.1:{port}")
        assert list(temporary.glob("unseg-demo-*"))
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}").status == 200
        assert _own_listeners(process.pid) == {("127.0.0.1", port)}
        process.send_signal(signal.SIGTERM)
        process.stdout.read()  # ends when the last child has ended, too
        assert process.wait() == 0
    finally:
        process.kill()
    assert not list(temporary.iterdir())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _own_listeners(pid: int) -> set[tuple[str, int]]:
    """Addresses that a process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            target = str(link.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                host, port = words[1].split(":")
                shown = socket.inet_ntoa(bytes.fromhex(host)[::-1]) if len(host) == 8 else host
                found.add((shown, int(port, 16)))
    return found


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["--port", "99999"], "--port 99999"),
        (["--max-megapixels", "0"], "--max-megapixels 0"),
        (["--max-megabytes", "-1"], "--max-megabytes -1"),
        (["--generator", "nowhere.pth"], "nowhere.pth: no such weight file"),
    ],
)
def test_a_bad_call_of_the_command_ends_with_one_line_and_code_2(call, words, capsys):
    assert main(["demo", "--no-browser", "--port", str(_free_port()), *call]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_an_installation_without_the_pages_generator_says_what_to_give(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(embedded, "embedded_path", lambda name: tmp_path / f"{name}.safetensors")
    assert main(["demo", "--no-browser", "--port", str(_free_port())]) == 2
    error = capsys.readouterr().err
    assert "--generator: weights 'pattern' do not come with this installation; give a" in error


def test_a_taken_port_is_named(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--no-browser", "--port", str(port)]) == 2
    assert f"--port {port}: cannot be listened on" in capsys.readouterr().err
