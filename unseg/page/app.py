"""The layout of the page and its server.

Annotations are evaluated here (no `from __future__ import annotations`): gradio finds the window of
a call by the type of the parameter.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from unseg.page.handlers import NO_PICTURE, NO_RESULT, Handlers, Values
from unseg.page.protecting import WHAT_IT_DOES_NOT_DO, Protector
from unseg.page.session import Limits, Sessions

TITLE = "UnSeg: protect pictures"
_INTRODUCTION = (
    "<h1>Protect your pictures</h1>"
    "<p>Adds noise of a few grey levels. Segmentation models that are <em>trained</em> on the "
    "protected pictures learn less about the marked object. Everything stays on this computer.</p>"
    f"<details open><summary>What it does not do</summary><p>{WHAT_IT_DOES_NOT_DO}</p></details>"
)
_FONTS = ("system-ui", "sans-serif")
_CACHE_SECONDS = 12 * 3600
_OUTPUTS = (
    "files", "picture", "canvas", "layer", "mask_text", "psnr", "status", "compare", "download",
    "download_all", "protect", "protect_all", "forget",
)  # fmt: skip


@dataclass
class Server:
    """A page that is being served.

    Attributes:
        url: its address.
        sessions: its windows.
        blocks: gradio's object.
    """

    url: str
    sessions: Sessions
    blocks: Any

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

    Raises:
        OSError: the port is taken.
    """
    limits = limits or Limits()
    sessions = Sessions(folder, limits)
    blocks = build_page(sessions, Protector(generator, device))
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
        theme=_theme(),
        css=asset("page.css"),
        # Gradio would ask its own page once more and give up after 3 s: too short on a busy one.
        _frontend=False,
    )
    return Server(url=url, sessions=sessions, blocks=blocks)


def build_page(sessions: Sessions, protector: Protector) -> Any:
    """Gradio's blocks of the page, not yet served."""
    import gradio as gr

    handlers = Handlers(sessions, protector, gr.update)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(600, _CACHE_SECONDS)
    ) as page:
        parts = _layout(gr, sessions.limits)
        _wire(gr, page, parts, handlers)
    return page


def asset(name: str) -> str:
    """Text of a file that belongs to the page."""
    return (resources.files("unseg") / "assets" / name).read_text(encoding="utf-8")


def _theme() -> Any:
    """Fonts of the system: nothing is fetched."""
    import gradio as gr

    return gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=("monospace",)).set(
        button_primary_background_fill="#1d4ed8",
        button_primary_background_fill_hover="#1e40af",
        button_primary_background_fill_dark="#1d4ed8",
        button_primary_background_fill_hover_dark="#2563eb",
        button_large_text_weight="600",
        button_large_text_size="15px",
        slider_color="#1d4ed8",
        slider_color_dark="#3b82f6",
        layout_gap="14px",
        # Grey of the default theme is too pale to read.
        body_text_color_subdued="#4b5563",
        body_text_color_subdued_dark="#c4c4cc",
    )


def _layout(gr: Any, limits: Limits) -> dict[str, Any]:
    """The components by name, in reading order, which is also that of the Tab key.

    What cannot be used yet is not shown: handlers make it visible.
    """
    parts: dict[str, Any] = {}

    def html(text: str, name: str) -> Any:
        return gr.HTML(text, padding=False, elem_classes=name)

    def step(number: int, text: str) -> None:
        html(f"<h2><span>{number}</span>{text}</h2>", "unseg-step")

    html(_INTRODUCTION, "unseg-introduction")
    with gr.Row(elem_classes="unseg-columns"):
        with gr.Column(scale=5, min_width=300):
            step(1, "Add pictures")
            parts["files"] = gr.File(
                label="Pictures",
                show_label=False,
                file_count="multiple",
                height=112,
                elem_id="unseg-files",
            )
            html(
                f"PNG, JPEG, TIFF, WebP or BMP; up to {limits.megapixels:g} megapixels and "
                f"{limits.megabytes:g} MB each.",
                "unseg-note",
            )
            parts["picture"] = gr.Dropdown(
                label="Shown picture", choices=[], interactive=True, visible=False
            )
            step(2, "Mark what to protect")
            parts["canvas"] = gr.HTML(
                NO_PICTURE,
                html_template=asset("page_canvas.html"),
                js_on_load=asset("page_canvas.js"),
                elem_id="unseg-canvas",
                padding=False,
            )
            # A value of its own: an answer in the canvas's would replace marks not yet sent.
            parts["layer"] = gr.HTML(
                NO_PICTURE, js_on_load=asset("page_layer.js"), visible="hidden"
            )
            parts["mask_text"] = html("", "unseg-text")
        with gr.Column(scale=3, min_width=300, elem_classes="unseg-side"):
            step(3, "Choose the strength")
            with gr.Group():
                parts["epsilon"] = gr.Slider(
                    1, 32, value=8, step=1, label="Inside the mask, in grey levels", buttons=[]
                )
                parts["epsilon_bg"] = gr.Slider(
                    0, 32, value=2, step=1, label="Outside of it", buttons=[]
                )
            parts["psnr"] = gr.HTML("", padding=False, elem_id="unseg-psnr")
            step(4, "Protect and download")
            parts["protect"] = gr.Button(
                "Protect this picture", variant="primary", interactive=False
            )
            parts["protect_all"] = gr.Button("Protect all pictures", visible=False)
            parts["status"] = gr.HTML("", padding=False, elem_id="unseg-status")
            parts["download"] = gr.DownloadButton("Download this result (PNG)", visible=False)
            parts["download_all"] = gr.DownloadButton(
                "Download all with manifest (zip)", visible=False
            )
            parts["forget"] = gr.Button(
                "Remove my pictures from the disk",
                size="sm",
                visible=False,
                elem_classes="unseg-quiet",
            )
    parts["compare"] = gr.HTML(
        NO_RESULT,
        html_template=asset("page_compare.html"),
        js_on_load=asset("page_compare.js"),
        elem_id="unseg-compare",
        padding=False,
    )
    return parts


def _wire(gr: Any, page: Any, parts: dict[str, Any], handlers: Handlers) -> None:
    """Connect components and handlers."""
    outputs = [parts[name] for name in _OUTPUTS]
    # One picture at a time goes through the generator, whatever the number of windows.
    turn: dict[str, Any] = {"concurrency_id": "generator", "concurrency_limit": 1}
    strength = [parts["picture"], parts["epsilon"], parts["epsilon_bg"]]

    def named(values: Values) -> dict[Any, Any]:
        return {parts[name]: value for name, value in values.items()}

    def of_window(method: Callable[..., Values]) -> Callable[..., dict[Any, Any]]:
        def run(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return named(method(str(request.session_hash), *values))

        return run

    def protecting(everything: bool) -> Callable[..., dict[Any, Any]]:
        def run(
            key: Any,
            epsilon: Any,
            epsilon_bg: Any,
            message: Any,
            request: gr.Request,
            progress: Any = gr.Progress(),  # noqa: B008  (gradio looks for it there)
        ) -> dict[Any, Any]:
            return named(
                handlers.protect(
                    str(request.session_hash),
                    key,
                    epsilon,
                    epsilon_bg,
                    message,
                    everything=everything,
                    on_progress=lambda done, total: progress((done, total), unit="pictures"),
                )
            )

        return run

    def close(request: gr.Request) -> None:
        handlers.sessions.close(str(request.session_hash))

    def live(event: Any) -> None:
        event.then(
            of_window(handlers.strength),
            strength,
            [parts["psnr"]],
            show_progress="hidden",
            api_visibility="private",
            **turn,
        )

    live(parts["files"].upload(of_window(handlers.load), parts["files"], outputs, api_name="load"))
    live(
        parts["picture"].input(
            of_window(handlers.select), parts["picture"], outputs, api_name="select"
        )
    )
    live(
        parts["canvas"].input(
            of_window(handlers.mark),
            parts["canvas"],
            outputs,
            api_name="mark",
            trigger_mode="always_last",
            show_progress="hidden",
            **turn,
        )
    )
    gr.on(
        [parts["epsilon"].change, parts["epsilon_bg"].change],
        of_window(handlers.strength),
        strength,
        [parts["psnr"]],
        api_name="strength",
        trigger_mode="always_last",
        show_progress="hidden",
        **turn,
    )
    for name, everything in (("protect", False), ("protect_all", True)):
        parts[name].click(
            protecting(everything),
            [*strength, parts["canvas"]],
            outputs,
            api_name=name,
            trigger_mode="once",
            **turn,
        )
    parts["forget"].click(of_window(handlers.forget), None, outputs, api_name="forget")
    page.unload(close)
