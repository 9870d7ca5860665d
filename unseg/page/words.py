"""What the page says, as HTML: lines and faults, figures, how far something is.

Names of files are text, never markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from unseg.page.proving import ProofState
from unseg.page.session import Upload


def status(lines: Iterable[str], faults: Iterable[str] = ()) -> str:
    """HTML of lines, faults first."""
    parts = [f'<div class="unseg-fault">{html.escape(fault)}</div>' for fault in faults]
    parts += [f"<div>{html.escape(line)}</div>" for line in lines]
    return f'<div class="unseg-status" role="status">{"".join(parts)}</div>'


def progress(state: ProofState) -> str:
    """HTML of a proof that is under way; screen readers would repeat a `status` every second."""
    value = "" if state.part is None else f' value="{state.part:.3f}"'
    return (
        f'<div class="unseg-status"><progress aria-label="Progress of the proof"{value}></progress>'
        f"<div>{html.escape(state.text)}</div></div>"
    )


def loaded(upload: Upload) -> str:
    """One sentence about a picture that was taken in."""
    height, width = upload.size
    notes = f" ({'; '.join(upload.notes)})" if upload.notes else ""
    return f"{upload.key}: {width} x {height} pixels, {upload.kind}{notes}."


def figure(psnr: float, *, is_estimate: bool) -> str:
    """HTML of the live figure."""
    about = "about " if is_estimate else ""
    return (
        f'<div class="unseg-figure" role="status"><strong>{about}{psnr:.1f} dB</strong>'
        f"<span>PSNR: {_visibility(psnr)}</span></div>"
    )


def _visibility(psnr: float) -> str:
    """A word for a figure; 40 and 33 dB are customary bounds for noise that is spread out."""
    if psnr >= 40:
        return "hardly visible"
    return "visible on smooth areas" if psnr >= 33 else "clearly visible"
