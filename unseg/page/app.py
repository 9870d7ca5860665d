"""The events of the page and its server.

Annotations are evaluated here (no `from __future__ import annotations`): gradio finds the window of
a call by the type of the parameter.
"""

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.page.guard import Guard
from unseg.page.handlers import Handlers, Values
from unseg.page.layout import TITLE, asset, layout, theme
from unseg.page.protecting import Protector
from unseg.page.proving import ProofOffer
from unseg.page.session import Limits, Sessions
from unseg.page.strength import UNMEASURED, Strength

_CACHE_SECONDS = 12 * 3600
_OUTPUTS = (
    "files", "picture", "canvas", "layer", "mask_text", "psnr", "status", "compare", "download",
    "download_all", "protect", "protect_all", "forget", "proof", "proof_note", "proof_status",
    "proof_report",
)  # fmt: skip
_PROOF_OUTPUTS = ("proof_status", "prove", "stop_proof", "proof_report")


@dataclass
class Server:
    """A page that is being served.

    Attributes:
        url: its address.
        sessions: its windows.
        blocks: gradio's object.
        refused: how many requests were not those of its windows, by kind.
    """

    url: str
    sessions: Sessions
    blocks: Any
    refused: Counter[str]

    def wait(self) -> None:
        """Serve until the process is interrupted."""
        threading.Event().wait()

    def close(self) -> None:
        """Stop serving and remove every temporary file."""
        self.sessions.close_all()
        self.blocks.close(verbose=False)
        shutil.rmtree(self.sessions.folder, ignore_errors=True)


def serve(
    generator: Any,
    *,
    device: Any,
    folder: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    limits: Limits | None = None,
    open_browser: bool = False,
    strength: Strength = UNMEASURED,
    offer: ProofOffer | None = None,
) -> Server:
    """Start the page and return while it is served.

    Args:
        generator: from `unseg.load_generator`.
        device: torch device where it runs.
        folder: for temporary files, gradio's too (environment GRADIO_TEMP_DIR); `Server.close`
            removes it.
        host: address to listen on.
        port: None takes a free one.
        limits: of uploads.
        open_browser: open a window of the user's browser.
        strength: where the sliders start.
        offer: what proves the protection of a window's pictures; None: nothing does.

    Raises:
        OSError: the port is taken.
    """
    from starlette.middleware import Middleware

    limits = limits or Limits()
    sessions = Sessions(folder, limits)
    refused: Counter[str] = Counter()
    guard = Middleware(Guard, host=host, folder=folder, limits=limits, refused=refused)
    blocks = build_page(sessions, Protector(generator, device), strength, offer)
    blocks.queue(default_concurrency_limit=4)
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size=limits.max_bytes,
        theme=theme(),
        css=asset("page.css"),
        # Gradio would ask its own page once more and give up after 3 s: too short on a busy one.
        _frontend=False,
        app_kwargs={"middleware": [guard]},
    )
    return Server(url=url, sessions=sessions, blocks=blocks, refused=refused)


def build_page(
    sessions: Sessions, protector: Protector, strength: Strength, offer: ProofOffer | None
) -> Any:
    """Gradio's blocks of the page, not yet served."""
    import gradio as gr

    handlers = Handlers(sessions, protector, gr.update, offer)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(600, _CACHE_SECONDS)
    ) as page:
        parts = layout(gr, sessions.limits, strength)
        _wire(gr, page, parts, handlers)
    _take_local_files_only(gr, page)
    return page


def _take_local_files_only(gr: Any, page: Any) -> None:
    """Gradio would fetch a file whose path is an address of the network."""

    def local_only(move: Callable[..., Any]) -> Callable[..., Any]:
        def checked(path: Any) -> Any:
            if "://" in str(path):
                raise gr.Error("the page takes files of this computer only")
            return move(path)

        return checked

    for block in page.blocks.values():
        for name in ("async_move_resource_to_block_cache", "move_resource_to_block_cache"):
            setattr(block, name, local_only(getattr(block, name)))


def _wire(gr: Any, page: Any, parts: dict[str, Any], handlers: Handlers) -> None:
    """Connect components and handlers."""
    outputs = [parts[name] for name in _OUTPUTS]
    # One picture at a time goes through the generator, whatever the number of windows.
    turn: dict[str, Any] = {"concurrency_id": "generator", "concurrency_limit": 1}
    hidden: dict[str, Any] = {"show_progress": "hidden"}
    strength = [parts["picture"], parts["epsilon"], parts["epsilon_bg"]]
    figured = [*strength, parts["secret"]]
    load, select, mark, figure, forget = (
        _of_window(gr, parts, method)
        for method in (
            handlers.load,
            handlers.select,
            handlers.mark,
            handlers.strength,
            handlers.forget,
        )
    )
    canvas, last = parts["canvas"], {"trigger_mode": "always_last"}
    for event in (
        parts["files"].upload(load, parts["files"], outputs, api_name="load"),
        parts["picture"].input(select, parts["picture"], outputs, api_name="select"),
        canvas.input(mark, canvas, outputs, api_name="mark", **last, **hidden, **turn),
    ):
        event.then(figure, figured, [parts["psnr"]], api_visibility="private", **hidden, **turn)
    gr.on(
        [parts["epsilon"].change, parts["epsilon_bg"].change, parts["secret"].blur],
        figure,
        figured,
        [parts["psnr"]],
        api_name="strength",
        **last,
        **hidden,
        **turn,
    )
    for name, everything in (("protect", False), ("protect_all", True)):
        parts[name].click(
            _protecting(gr, parts, handlers, everything=everything),
            [*strength, canvas, parts["secret"]],
            outputs,
            api_name=name,
            trigger_mode="once",
            **turn,
        )
    parts["forget"].click(forget, None, outputs, api_name="forget")
    _wire_proof(gr, parts, handlers)

    def close(request: gr.Request) -> None:
        handlers.sessions.close(str(request.session_hash))

    page.unload(close)


def _wire_proof(gr: Any, parts: dict[str, Any], handlers: Handlers) -> None:
    """Connect what proves. Its events wait for no other ones, nor others for them."""

    def prove(request: gr.Request) -> Iterator[dict[Any, Any]]:
        for values in handlers.prove(_window(gr, request)):
            yield _named(parts, values)

    own: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    outputs = [parts[name] for name in _PROOF_OUTPUTS]
    parts["prove"].click(prove, None, outputs, api_name="prove", trigger_mode="once", **own)
    stop = _of_window(gr, parts, handlers.stop_proof)
    parts["stop_proof"].click(stop, None, outputs, api_name="stop_proof", **own)


def _of_window(
    gr: Any, parts: dict[str, Any], method: Callable[..., Values]
) -> Callable[..., dict[Any, Any]]:
    """A handler as gradio calls it: the window's name is taken from the request."""

    def run(request: gr.Request, *values: Any) -> dict[Any, Any]:
        return _named(parts, method(_window(gr, request), *values))

    return run


def _protecting(
    gr: Any, parts: dict[str, Any], handlers: Handlers, *, everything: bool
) -> Callable[..., dict[Any, Any]]:
    """The handler of a button that protects, with its bar."""

    def run(
        key: Any,
        epsilon: Any,
        epsilon_bg: Any,
        message: Any,
        secret: Any,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008  (gradio looks for it there)
    ) -> dict[Any, Any]:
        values = handlers.protect(
            _window(gr, request),
            key,
            epsilon,
            epsilon_bg,
            message,
            secret,
            everything=everything,
            on_progress=lambda done, total: progress((done, total), unit="pictures"),
        )
        return _named(parts, values)

    return run


def _named(parts: dict[str, Any], values: Values) -> dict[Any, Any]:
    return {parts[name]: value for name, value in values.items()}


def _window(gr: Any, request: Any) -> str:
    """The window that calls; gradio's other callers have none, and nobody would close it."""
    if not request.session_hash:
        raise gr.Error("open the page in a window first")
    return str(request.session_hash)
