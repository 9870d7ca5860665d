"""Who may use the page: its own windows, and nobody whose page they also visit.

A browser lets every website send requests to this computer. Three things tell them from those of
the page's own windows: the name they ask for, which is the website's own after DNS rebinding
(`Host`); where they come from (`Origin`, Fetch Metadata); and a cookie that came with the page.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from unseg.page.session import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_PAGES = ("/", "/config")
_API = "/gradio_api"
_UPLOAD = f"{_API}/upload"
_POSTS = (_UPLOAD, f"{_API}/queue/join", f"{_API}/cancel", f"{_API}/reset")
"""What windows send; gradio's further ways to call a function need no window."""

_MOST_MARKS = 8_000_000
"""Bytes of a request that is no upload; a window with a thousand long strokes sends less."""

_LEAST_OF_A_FILE = 8192
"""Bytes that a file takes on the disk, however small: a block of its folder and one of its own."""


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        kind: what is wrong, a word or two; refusals are counted by it.
        text: for whoever asks.
    """

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


class Names:
    """Names and addresses by which the page may be asked for.

    A page for this computer only goes by the names of this computer's loopback. One that listens
    to others goes also by any address, which nobody can rebind, by the name it was told to listen
    to and by the computer's own.

    Args:
        host: where the server listens.
    """

    def __init__(self, host: str) -> None:
        self._is_open = not is_loopback(host)
        self._known = {"localhost", host.lower()}
        if self._is_open:
            self._known.add(socket.gethostname().lower())

    def __contains__(self, name: str) -> bool:
        if name in self._known:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return self._is_open or address.is_loopback


class Guard:
    """An ASGI application in front of the page's.

    Args:
        app: the page.
        host: where the server listens.
        folder: of the page's temporary files.
        limits: of uploads.
        refused: takes the number of refusals by their kind.
    """

    def __init__(
        self, app: App, *, host: str, folder: Path, limits: Limits, refused: Counter[str]
    ) -> None:
        self.app, self.folder, self.limits, self.refused = app, folder, limits, refused
        self._names = Names(host)
        self._session = secrets.token_urlsafe(16)
        self._incoming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no web socket
            self.refused["web socket"] += 1
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers = _headers(scope)
            self._check_sender(scope, headers)
            length = self._check_body(scope, headers) if scope["method"] == "POST" else 0
        except RequestError as refusal:
            self.refused[refusal.kind] += 1
            await _answer(send, refusal)
            return
        self._incoming += length
        try:
            await self.app(scope, receive, self._marked(scope, send))
        finally:
            self._incoming -= length

    def _check_sender(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse whoever is not a window of the page.

        Raises:
            RequestError: a foreign name, a foreign origin, or a change without the page's cookie.
        """
        host = headers.get("host", "").lower()
        found = _HOST.fullmatch(host)
        if found is None or found[1] not in self._names:
            raise RequestError(
                421, "foreign name", f"this page does not go by the name {host[:80]!r}"
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            raise RequestError(403, "foreign origin", "this page answers only its own windows")
        # Everything but opening the page: https://www.w3.org/TR/fetch-metadata/
        is_opening = (
            scope["method"] in ("GET", "HEAD")
            and headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
        )
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_opening:
            raise RequestError(403, "foreign origin", "this page answers only its own windows")
        if scope["method"] not in ("GET", "HEAD"):
            if scope["path"] not in _POSTS:
                raise RequestError(403, "no session", "no window of this page asks for that")
            wanted = f"{_cookie_name(scope)}={self._session}"
            if wanted not in headers.get("cookie", "").replace(" ", "").split(";"):
                raise RequestError(
                    403, "no session", "this page was not opened here; load it again"
                )

    def _check_body(self, scope: Scope, headers: dict[str, str]) -> int:
        """The bytes that an upload announces; 0 for other requests, which leave no file.

        Raises:
            RequestError: it does not say how long it is, or is too long.
        """
        if not re.fullmatch(r"\d{1,18}", headers.get("content-length", "")):
            raise RequestError(411, "no length", "a request must say how long it is")
        length = int(headers["content-length"])
        if scope["path"] != _UPLOAD:
            if length > _MOST_MARKS:
                raise RequestError(
                    413, "too long", "clear some marks: they are too many for one request"
                )
            return 0
        if self._incoming + length + disk_use(self.folder) > self.limits.most_bytes:
            gigabytes = self.limits.most_bytes / 1e9
            raise RequestError(
                413, "disk", f"the page holds {gigabytes:g} GB at most; remove pictures first"
            )
        return length

    def _marked(self, scope: Scope, send: Send) -> Send:
        """`send` that gives the page its cookie, and forbids to frame it in another one."""

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                headers.append((b"content-security-policy", b"frame-ancestors 'none'"))
                if scope["method"] == "GET" and scope["path"] in _PAGES:
                    cookie = f"{_cookie_name(scope)}={self._session}"
                    cookie += "; Path=/; HttpOnly; SameSite=Strict"
                    headers.append((b"set-cookie", cookie.encode()))
                message = {**message, "headers": headers}
            await send(message)

        return marked


def is_loopback(host: str) -> bool:
    """Whether whoever listens there hears this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def disk_use(folder: Path) -> int:
    """Bytes of all files below a folder."""
    used = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size = Path(place, name).lstat().st_size
            except OSError:  # removed meanwhile
                continue
            used += max(size, _LEAST_OF_A_FILE)
    return used


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by their name in lower case.

    Raises:
        RequestError: one of those that decide is given twice.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "cookie" and name in found:  # HTTP/2 may cut it up
            value = f"{found[name]}; {value}"
        elif name in ("host", "origin", "content-length") and name in found:
            raise RequestError(400, "doubtful", f"{name} is given twice")
        found[name] = value
    return found


def _cookie_name(scope: Scope) -> str:
    """Cookies do not know ports: each page on this computer needs a name of its own."""
    return f"unseg-{scope['server'][1]}"


async def _answer(send: Send, refusal: RequestError) -> None:
    body = str(refusal).encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # an upload that is refused is not read to its end
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
