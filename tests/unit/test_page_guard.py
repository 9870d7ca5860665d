"""Requests of others never reach the page; those of its own windows do."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from unseg.page.guard import Guard
from unseg.page.session import Limits

OWN = {"host": "127.0.0.1:7860"}
OPENED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


async def nothing() -> dict[str, Any]:
    """What the guard receives: it reads no body."""
    return {}


class Page:
    """A guarded page that notes what reaches it."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", limits: Limits | None = None):
        self.reached: list[str] = []
        self.refused: Counter[str] = Counter()
        self.guard = Guard(
            self._answer,
            host=host,
            folder=folder,
            limits=limits or Limits(),
            refused=self.refused,
        )

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(
        self, method: str, path: str, headers: dict[str, str] | list[tuple[str, str]]
    ) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        given = headers.items() if isinstance(headers, dict) else headers
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "server": ("127.0.0.1", 7860),
            "headers": [(name.encode(), value.encode()) for name, value in given],
        }
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.guard(scope, nothing, send))
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], found

    def post(self, path: str = JOIN, **headers: str) -> int:
        """Status of what a window that has opened the page posts."""
        _, found = self.ask("GET", "/", OWN)
        cookie = found["set-cookie"].split(";")[0]
        self.reached.clear()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        wanted = OWN | {"cookie": f"other=1; {cookie}", "content-length": "10"} | named
        return self.ask("POST", path, wanted)[0]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "localhost:9000", "LOCALHOST", "[::1]:7860", "127.0.0.1"]
)
def test_a_page_for_this_computer_goes_by_its_names(page, host):
    assert page.ask("GET", "/", {"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example:7860", "127.0.0.1.example", "localhost.", "192.0.2.1:7860", "",
        "a@127.0.0.1", "127.0.0.1:7860/x", "[::1",
    ],
)  # fmt: skip
def test_a_foreign_name_is_refused_so_that_rebinding_gains_nothing(page, host):
    assert page.ask("GET", "/config", {"host": host})[0] == 421
    assert page.ask("GET", "/", [])[0] == 421
    assert page.reached == []
    assert page.refused == {"foreign name": 2}


def test_a_page_for_others_goes_by_addresses_but_not_by_any_name(tmp_path):
    page = Page(tmp_path, host="0.0.0.0")
    assert page.ask("GET", "/", {"host": "192.0.2.1:7860"})[0] == 200
    assert page.ask("GET", "/", {"host": "localhost:7860"})[0] == 200
    assert page.ask("GET", "/", {"host": "rebound.example:7860"})[0] == 421
    named = Page(tmp_path, host="pictures.example")
    assert named.ask("GET", "/", {"host": "pictures.example:7860"})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:7860"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "origin": "http://127.0.0.1:7860"},
    ],
)
def test_posts_from_other_sites_are_refused(page, headers):
    assert page.post(**headers) == 403
    assert page.reached == []
    assert page.refused == {"foreign origin": 1}


def test_the_own_window_posts(page):
    assert page.post(origin="http://127.0.0.1:7860", sec_fetch_site="same-origin") == 200
    assert page.reached == [JOIN]
    assert page.refused == {}


def test_another_site_may_link_to_the_page_but_neither_frame_nor_embed_it(page):
    foreign = OWN | {"sec-fetch-site": "cross-site"}
    status, headers = page.ask("GET", "/", foreign | OPENED)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert page.ask("GET", "/", foreign | OPENED | {"sec-fetch-dest": "iframe"})[0] == 403
    image = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert page.ask("GET", "/gradio_api/file=x.png", foreign | image)[0] == 403
    assert page.ask("POST", "/", foreign | OPENED | {"content-length": "0"})[0] == 403


def test_uploads_without_the_cookie_of_the_page_are_refused_and_counted(page):
    wrong = [{}, {"cookie": "unseg-7860=guess"}, {"cookie": "unseg-7861=x; a=b"}]
    for headers in wrong:
        assert page.ask("POST", UPLOAD, OWN | {"content-length": "10"} | headers)[0] == 403
    assert page.reached == []
    assert page.refused == {"no session": 3}
    assert page.post(UPLOAD) == 200


def test_the_cookie_is_for_the_pages_own_requests_alone(page):
    _, headers = page.ask("GET", "/", OWN)
    assert headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert "set-cookie" not in page.ask("GET", "/gradio_api/file=x.png", OWN)[1]


@pytest.mark.parametrize("path", ["/gradio_api/run/load", "/gradio_api/call/load", "/login", "/"])
def test_ways_to_call_that_need_no_window_are_closed(page, path):
    assert page.post(path) == 403
    assert page.reached == []


def test_other_methods_and_web_sockets_are_refused(page):
    assert page.ask("DELETE", UPLOAD, OWN)[0] == 403
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(page.guard({"type": "websocket"}, nothing, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert page.reached == []


def test_requests_say_how_long_they_are_and_stay_below_the_bound(page):
    assert page.post(content_length="") == 411
    assert page.post(content_length="-1") == 411
    assert page.post(content_length="9000000") == 413
    assert page.post(UPLOAD, content_length="9000000") == 200
    assert page.ask("GET", "/", [*OWN.items(), *OWN.items()])[0] == 400


def test_uploads_end_where_the_pages_files_have_reached_their_bound(tmp_path):
    page = Page(tmp_path, limits=Limits(num_pictures=10, megabytes=0.01))
    assert page.post(UPLOAD, content_length="90000") == 200
    for i in range(2):  # files of one byte take a block each
        (tmp_path / str(i)).write_bytes(b"x")
    assert page.post(UPLOAD, content_length="90000") == 413
    (tmp_path / "0").write_bytes(bytes(100_000))
    assert page.post(UPLOAD) == 413
    assert page.refused == {"disk": 2}
    (tmp_path / "0").unlink()
    assert page.post(UPLOAD) == 200
