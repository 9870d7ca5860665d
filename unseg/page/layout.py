"""What the page shows, and in which order."""

from __future__ import annotations

from importlib import resources
from typing import Any

from unseg.page.handlers import NO_PICTURE, NO_RESULT
from unseg.page.protecting import WHAT_IT_DOES_NOT_DO
from unseg.page.session import Limits
from unseg.page.strength import Strength

TITLE = "UnSeg: protect pictures"
_INTRODUCTION = (
    "<h1>Protect your pictures</h1>"
    "<p>Adds noise of a few grey levels. Segmentation models that are <em>trained</em> on the "
    "protected pictures learn less about the marked object. Everything stays on this computer.</p>"
    f"<details open><summary>What it does not do</summary><p>{WHAT_IT_DOES_NOT_DO}</p></details>"
)
_FONTS = ("system-ui", "sans-serif")


def asset(name: str) -> str:
    """Text of a file that belongs to the page."""
    return (resources.files("unseg") / "assets" / name).read_text(encoding="utf-8")


def theme() -> Any:
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


def layout(gr: Any, limits: Limits, strength: Strength) -> dict[str, Any]:
    """The components by name, in reading order, which is also that of the Tab key.

    What cannot be used yet is not shown: handlers make it visible.
    """
    _html(gr, _INTRODUCTION, "unseg-introduction")
    with gr.Row(elem_classes="unseg-columns"):
        with gr.Column(scale=5, min_width=300):
            parts = _pictures(gr, limits)
        with gr.Column(scale=3, min_width=300, elem_classes="unseg-side"):
            parts |= _strength_and_results(gr, strength)
    parts["compare"] = gr.HTML(
        NO_RESULT,
        html_template=asset("page_compare.html"),
        js_on_load=asset("page_compare.js"),
        elem_id="unseg-compare",
        padding=False,
    )
    return parts | _proof(gr)


def _pictures(gr: Any, limits: Limits) -> dict[str, Any]:
    """Steps 1 and 2: pictures and what is marked on them."""
    parts: dict[str, Any] = {}
    _step(gr, 1, "Add pictures")
    parts["files"] = gr.File(
        label="Pictures",
        show_label=False,
        file_count="multiple",
        height=112,
        elem_id="unseg-files",
    )
    _html(
        gr,
        f"PNG, JPEG, TIFF, WebP or BMP; up to {limits.megapixels:g} megapixels and "
        f"{limits.megabytes:g} MB each.",
        "unseg-note",
    )
    parts["picture"] = gr.Dropdown(
        label="Shown picture", choices=[], interactive=True, visible=False
    )
    _step(gr, 2, "Mark what to protect")
    parts["canvas"] = gr.HTML(
        NO_PICTURE,
        html_template=asset("page_canvas.html"),
        js_on_load=asset("page_canvas.js"),
        elem_id="unseg-canvas",
        padding=False,
    )
    # A value of its own: an answer in the canvas's would replace marks not yet sent.
    parts["layer"] = gr.HTML(NO_PICTURE, js_on_load=asset("page_layer.js"), visible="hidden")
    parts["mask_text"] = _html(gr, "", "unseg-text")
    return parts


def _strength_and_results(gr: Any, strength: Strength) -> dict[str, Any]:
    """Steps 3 and 4: the strength, the buttons and the files."""
    parts: dict[str, Any] = {}
    _step(gr, 3, "Choose the strength")
    with gr.Group():
        for name, low, value, label in (
            ("epsilon", 1, strength.epsilon, "Inside the mask, in grey levels"),
            ("epsilon_bg", 0, strength.epsilon_bg, "Outside of it"),
        ):
            parts[name] = gr.Slider(low, 32, value=value, step=1, label=label, buttons=[])
    _html(gr, strength.note, "unseg-note")
    parts["psnr"] = gr.HTML("", padding=False, elem_id="unseg-psnr")
    parts["secret"] = gr.Textbox(
        "",
        type="password",
        label="Secret (optional)",
        info="At least 16 characters; without it nobody can compute the noise. Kept in no file.",
        html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
    )
    _step(gr, 4, "Protect and download")
    parts["protect"] = gr.Button("Protect this picture", variant="primary", interactive=False)
    parts["protect_all"] = gr.Button("Protect all pictures", visible=False)
    parts["status"] = gr.HTML("", padding=False, elem_id="unseg-status")
    parts["download"] = gr.DownloadButton("Download this result (PNG)", visible=False)
    parts["download_all"] = gr.DownloadButton("Download all with manifest (zip)", visible=False)
    parts["forget"] = gr.Button(
        "Remove my pictures from the disk",
        size="sm",
        visible=False,
        elem_classes="unseg-quiet",
    )
    return parts


def _proof(gr: Any) -> dict[str, Any]:
    """What proves the protection, once there is one."""
    parts: dict[str, Any] = {}
    with gr.Column(visible=False, elem_id="unseg-proof") as parts["proof"]:
        _html(gr, "<h2>Is it protected?</h2>", "unseg-part")
        parts["proof_note"] = _html(gr, "", "unseg-note")
        with gr.Row():
            parts["prove"] = gr.Button("Prove it on these pictures")
            parts["stop_proof"] = gr.Button("Stop the proof", visible=False)
            parts["proof_report"] = gr.DownloadButton("Download the report (HTML)", visible=False)
        parts["proof_status"] = gr.HTML("", padding=False, elem_id="unseg-proof-status")
    return parts


def _html(gr: Any, text: str, name: str) -> Any:
    return gr.HTML(text, padding=False, elem_classes=name)


def _step(gr: Any, number: int, text: str) -> None:
    _html(gr, f"<h2><span>{number}</span>{text}</h2>", "unseg-step")
