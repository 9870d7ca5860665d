"""What happens on the page, without its layout: one method an event, windows kept apart.

Every method takes the window's name first and returns new values by the name of the component.
A user's mistake becomes a line of the status; the page goes on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
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
from unseg.page.proving import ProofOffer, ProofRun, ProofState, proof_job
from unseg.page.session import Session, Sessions, Upload
from unseg.page.words import figure, loaded, progress, status
from unseg.protection.methods import NoiseKey
from unseg.protection.writing.manifest import PROTECTED
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
        offer: what proves; None: nothing does.
    """

    def __init__(
        self,
        sessions: Sessions,
        protector: Protector,
        update: Callable[..., Any],
        offer: ProofOffer | None = None,
    ) -> None:
        self.sessions, self.protector, self.update, self.offer = sessions, protector, update, offer
        self._turn = threading.Semaphore()

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
            lines = [loaded(upload) for upload in added]
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
            return {**self._shown(session, upload), "status": status([loaded(upload)])}

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

    def strength(
        self,
        window: str,
        key: str | None,
        epsilon: float,
        epsilon_bg: float,
        secret: str | None = None,
    ) -> Values:
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
                    upload, epsilon=epsilon, epsilon_bg=epsilon_bg, key=_noise_key(secret)
                )
            except UserError as error:
                return {"psnr": status((), [str(error)])}
        if psnr is None:
            return {"psnr": status(["PSNR: nothing changes at this strength."])}
        return {"psnr": figure(psnr, is_estimate=is_estimate)}

    def protect(
        self,
        window: str,
        key: str | None,
        epsilon: float,
        epsilon_bg: float,
        message: str | None = None,
        secret: str | None = None,
        *,
        everything: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Values:
        """Protect the shown picture, or all of the window, and show the result.

        `message` is what `mark` takes: a click on the button can overtake the marks before it. The
        secret is kept no longer than this takes.
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
                    session,
                    uploads,
                    epsilon=epsilon,
                    epsilon_bg=epsilon_bg,
                    key=_noise_key(secret),
                    on_entry=report,
                )
            except UserError as error:
                return {"status": status((), [str(error)])}
            lines = [describe_result(one) for one in uploads if one.entry is not None]
            return {"status": status(lines, faults), **self._results(session, shown)}

    def prove(self, window: str) -> Iterator[Values]:
        """Train victims on the window's pictures; what is new about it every second, then its end.

        The window is not locked meanwhile: its pictures can be marked and protected.
        """
        session = self.sessions.of(window)
        try:
            with session.lock:
                run = session.proof = self._new_proof(session)
        except UserError as error:
            yield {"proof_status": status((), [str(error)])}
            return
        with closing(run.states()) as states:
            for state in states:
                yield self._proof(state)

    def stop_proof(self, window: str) -> Values:
        """Stop a proof; `prove` gives its last values."""
        proof = self.sessions.of(window).proof
        if proof is not None:
            proof.stop()
        return {"stop_proof": self.update(interactive=False)}

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
            **self._proof_panel(session),
        }

    def _new_proof(self, session: Session) -> ProofRun:
        if session.proof is not None and not session.proof.is_over:
            raise UserError("a proof of these pictures is under way: stop it first")
        uploads = _provable(session)
        if self.offer is None or not uploads:
            raise UserError("mark the object in your pictures and protect them first")
        return ProofRun(self.offer.prove, proof_job(session.proof_folder(), uploads), self._turn)

    def _proof(self, state: ProofState) -> Values:
        if state.fault is not None:
            text = status((), [state.fault])
        elif state.is_over:
            text = status(state.found or [state.text])
        else:
            text = progress(state)
        return {
            "proof_status": text,
            "prove": self.update(visible=state.is_over),
            "stop_proof": self.update(visible=not state.is_over, interactive=True),
            "proof_report": self._file(state.page),
        }

    def _proof_panel(self, session: Session) -> Values:
        """Nothing to see until a picture is protected; then what a proof needs and costs."""
        if self.offer is None or all(one.output is None for one in session.uploads.values()):
            return {"proof": self.update(visible=False)}
        count, fewest = len(_provable(session)), self.offer.fewest
        note = (
            "Small victims learn from your clean pictures, from the protected ones and from an "
            "untrained tile, as those of unseg check --prove do. This takes "
            f"{self.offer.cost}. You can go on meanwhile."
        )
        here = f"Marked and protected: {count} of the {fewest} pictures that are needed at least."
        return {"proof": self.update(visible=True), "proof_note": status([note, here])}

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
            "proof": self.update(visible=False),
            "proof_status": "",
            "proof_report": self._file(None),
        }


def _noise_key(secret: str | None) -> NoiseKey | None:
    """Of the field's text; the same bytes in a file of `unseg protect --key` are the same key."""
    return NoiseKey.of(secret.encode(), name="secret") if secret else None


def _provable(session: Session) -> list[Upload]:
    """Pictures with a protected object."""
    return [
        one
        for one in session.uploads.values()
        if one.entry is not None and one.entry["status"] == PROTECTED and not one.marks.is_empty
    ]
