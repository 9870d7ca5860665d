"""What happens on the page, without its layout: one method an event, windows kept apart.

Every method takes the window's name first and returns new values by the name of the component.
A user's mistake becomes a line of the status; the page goes on.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from unseg.io.pictures import read_picture
from unseg.page.marks import describe_region, parse_marks, parse_message
from unseg.page.protecting import (
    Protector,
    comparison,
    describe_result,
    downloads,
    mask_uri,
    region_of,
    view_uri,
)
from unseg.page.session import Session, Sessions, Upload
from unseg.utils.errors import UserError

Values = dict[str, Any]
NO_PICTURE = json.dumps({"picture": None, "marks": {}})
NO_RESULT = "{}"


class Handlers:
    """The events of the page.

    Args:
        sessions: the windows.
        protector: the generator.
        update: makes a change of a component's properties (gradio's `update`).
    """

    def __init__(
        self, sessions: Sessions, protector: Protector, update: Callable[..., Any]
    ) -> None:
        self.sessions, self.protector, self.update = sessions, protector, update

    def load(self, window: str, paths: Sequence[str] | None) -> Values:
        """Take uploaded files in and show the first good one of them."""
        session = self.sessions.of(window)
        faults, added = [], []
        with session.lock:
            for path in map(Path, paths or ()):
                session.temporary.add(path)
                try:
                    added.append(session.add(path))
                except UserError as error:
                    faults.append(str(error))
                except OSError as error:
                    faults.append(f"{path.name}: cannot be read ({error.strerror}); load it again")
            shown = added[0] if added else None
            lines = [_loaded(upload) for upload in added]
            if shown is None:
                return {"files": None, "status": status(lines, faults)}
            return {
                "files": None,
                **self._shown(session, shown),
                "picture": self.update(
                    choices=list(session.uploads),
                    value=shown.key,
                    visible=len(session.uploads) > 1,
                ),
                "status": status(lines, faults),
                "protect": self.update(interactive=True),
                "protect_all": self.update(visible=len(session.uploads) > 1),
                "forget": self.update(visible=True),
            }

    def select(self, window: str, key: str | None) -> Values:
        """Show another picture of the window."""
        session = self.sessions.of(window)
        with session.lock:
            upload = session.uploads.get(key or "")
            if upload is None:
                return self._nothing()
            return {**self._shown(session, upload), "status": status([_loaded(upload)])}

    def mark(self, window: str, message: str | None) -> Values:
        """Take over what was drawn, and show the mask that it stands for."""
        session = self.sessions.of(window)
        with session.lock:
            answer: dict[str, Any] = {"picture": None}
            try:
                given = parse_message(message)
                upload = session.upload(given.get("picture"))
                answer = {"picture": upload.key, "serial": given.get("serial")}
                upload.take(parse_marks(given["marks"], upload.size))
                sentence, answer["mask"] = self._mask(upload)
            except UserError as error:
                # The drawing stays as it is, so that it can be put right.
                return {"layer": json.dumps(answer), "mask_text": status((), [str(error)])}
            return {
                "layer": json.dumps(answer),
                "mask_text": status([sentence]),
                **self._results(session, upload),
            }

    def strength(self, window: str, key: str | None, epsilon: float, epsilon_bg: float) -> Values:
        """What the chosen strength would do to the picture."""
        session = self.sessions.of(window)
        with session.lock:
            upload = session.uploads.get(key or "")
            if upload is None:
                return {"psnr": ""}
            for other in session.uploads.values():
                if other is not upload:
                    other.cached = None  # a window keeps the noise of one picture
            try:
                psnr, is_estimate = self.protector.psnr(
                    upload, epsilon=epsilon, epsilon_bg=epsilon_bg
                )
            except UserError as error:
                return {"psnr": status((), [str(error)])}
        if psnr is None:
            return {"psnr": status(["PSNR: nothing changes at this strength."])}
        return {"psnr": _figure(psnr, is_estimate=is_estimate)}

    def protect(
        self,
        window: str,
        key: str | None,
        epsilon: float,
        epsilon_bg: float,
        message: str | None = None,
        *,
        everything: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Values:
        """Protect the shown picture, or all of the window, and show the result.

        `message` is what `mark` takes: a click on the button can overtake the marks before it.
        """
        session = self.sessions.of(window)
        with session.lock:
            try:
                shown = session.upload(key)
                given = parse_message(message) if message else {}
                if given.get("picture") == shown.key:
                    shown.take(parse_marks(given["marks"], shown.size))
                uploads = list(session.uploads.values()) if everything else [shown]
                done: list[str] = []

                def report(entry: dict[str, Any]) -> None:
                    done.append(entry["key"])
                    if on_progress is not None:
                        on_progress(len(done), len(uploads))

                faults = self.protector.protect(
                    session, uploads, epsilon=epsilon, epsilon_bg=epsilon_bg, on_entry=report
                )
            except UserError as error:
                return {"status": status((), [str(error)])}
            lines = [describe_result(one) for one in uploads if one.entry is not None]
            return {"status": status(lines, faults), **self._results(session, shown)}

    def forget(self, window: str) -> Values:
        """Remove all pictures of the window from the disk."""
        self.sessions.close(window)
        return {
            **self._nothing(),
            "picture": self.update(choices=[], value=None, visible=False),
            "status": status(["All pictures of this window are removed from the disk."]),
        }

    def _shown(self, session: Session, upload: Upload) -> Values:
        """A picture with its marks, mask and result."""
        height, width = upload.size
        answer = {
            "picture": upload.key,
            "serial": 0,
            "image": view_uri(read_picture(upload.path)),
            "width": width,
            "height": height,
            "marks": upload.marks.as_dict(),
        }
        try:
            sentence, answer["mask"] = self._mask(upload)
            text = status([sentence])
        except UserError as error:
            text = status((), [str(error)])
        return {
            "canvas": json.dumps(answer),
            "mask_text": text,
            **self._results(session, upload),
        }

    def _mask(self, upload: Upload) -> tuple[str, str | None]:
        """A sentence about the mask, and the layer to show; none where it is everything."""
        region = region_of(upload)
        return describe_region(region), None if upload.marks.is_empty else mask_uri(region)

    def _results(self, session: Session, upload: Upload) -> Values:
        single, archive = downloads(session, upload)
        return {
            "compare": json.dumps(comparison(upload)) if upload.output else NO_RESULT,
            "download": self._file(single),
            "download_all": self._file(archive),
        }

    def _file(self, path: Path | None) -> Any:
        """A button that hands a file out, and is not there without one."""
        return self.update(value=None if path is None else str(path), visible=path is not None)

    def _nothing(self) -> Values:
        return {
            "canvas": NO_PICTURE,
            "mask_text": "",
            "psnr": "",
            "compare": NO_RESULT,
            "download": self._file(None),
            "download_all": self._file(None),
            "protect": self.update(interactive=False),
            "protect_all": self.update(visible=False),
            "forget": self.update(visible=False),
            "status": "",
        }


def status(lines: Iterable[str], faults: Iterable[str] = ()) -> str:
    """HTML of lines, faults first; names of files are text, never markup."""
    parts = [f'<div class="unseg-fault">{html.escape(fault)}</div>' for fault in faults]
    parts += [f"<div>{html.escape(line)}</div>" for line in lines]
    return f'<div class="unseg-status" role="status">{"".join(parts)}</div>'


def _loaded(upload: Upload) -> str:
    height, width = upload.size
    notes = f" ({'; '.join(upload.notes)})" if upload.notes else ""
    return f"{upload.key}: {width} x {height} pixels, {upload.kind}{notes}."


def _figure(psnr: float, *, is_estimate: bool) -> str:
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
