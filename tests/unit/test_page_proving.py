"""A proof on the page: a process of its own that tells how far it is and ends when it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import proof_stub
import pytest
from generate_cases import make_image
from page_cases import protector
from PIL import Image

from unseg.page.handlers import Handlers
from unseg.page.proving import ProofJob, ProofOffer, ProofRun
from unseg.page.session import Limits, Session, Sessions
from unseg.victims.grid.prove import FEWEST_PICTURES

_KILLED = """
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {tests!r})
import proof_stub
from unseg.page.proving import ProofJob, ProofRun

if __name__ == "__main__":
    job = ProofJob(Path({folder!r}), Path({folder!r}), ())
    states = ProofRun(proof_stub.endless, job, threading.Semaphore()).states()
    assert any(state.part == 0.4 for state in states)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def window(tmp_path: Path, prove: Any, count: int) -> tuple[Handlers, Session]:
    """Handlers, and the session of window "a" with protected pictures of a box each."""
    offer = ProofOffer(prove, fewest=FEWEST_PICTURES, cost="a minute of one CPU core")
    handlers = Handlers(
        Sessions(tmp_path / "page", Limits()), protector(), lambda **change: change, offer
    )
    paths = [tmp_path / f"{i:02d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(make_image(i, 24 + i % 2, 30)).save(path)
    handlers.load("a", [str(path) for path in paths])
    for path in paths:
        marks = {"picture": path.name, "marks": {"boxes": [[4, 4, 16, 14]]}}
        handlers.mark("a", json.dumps(marks))
    handlers.protect("a", paths[0].name, 8, 2, everything=True)
    return handlers, handlers.sessions.of("a")


def until(states: Iterator[dict[str, Any]], words: str) -> dict[str, Any]:
    """The first state that says so."""
    told = []
    for state in states:
        told.append(state["proof_status"])
        if words in told[-1]:
            return state
    pytest.fail(f"{words!r} is not in {told}")


def test_a_proof_of_the_windows_pictures_ends_with_sentences_and_a_report(tmp_path):
    handlers, session = window(tmp_path, proof_stub.tiny, FEWEST_PICTURES)
    panel = handlers.select("a", "00.png")
    assert panel["proof"] == {"visible": True}
    assert "a minute of one CPU core" in panel["proof_note"]
    assert "20 of the 20 pictures" in panel["proof_note"]
    *under_way, last = handlers.prove("a")
    assert under_way[0]["stop_proof"]["visible"]
    assert "tiny: cannot tell; it learns too little" in last["proof_status"]
    assert "Beside an untrained tile at 8/2" in last["proof_status"]
    page = Path(last["proof_report"]["value"])
    assert page.is_relative_to(session.folder)
    assert "Summary" in page.read_text(encoding="utf-8")
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert (numbers["num_pictures"], numbers["is_budget_known"]) == (FEWEST_PICTURES, True)
    mask = np.asarray(Image.open(page.parent / "masks/01.png"))
    assert (mask[4:15, 4:17] == 255).all()
    assert (mask == 255).sum() == 11 * 13


def test_pictures_are_protected_meanwhile_and_forgetting_them_ends_the_proof(tmp_path):
    handlers, session = window(tmp_path, proof_stub.endless, 2)
    proof = handlers.prove("a")
    state = until(proof, "40 % of the work is done, about ")
    assert 'value="0.400"' in state["proof_status"]
    assert state["stop_proof"]["visible"]
    done = handlers.protect("a", "00.png", 4, 1)
    assert "Measured in the written file" in done["status"]
    assert "under way: stop it first" in next(handlers.prove("a"))["proof_status"]
    process = session.proof._process
    assert process.is_alive()
    handlers.forget("a")
    assert not process.is_alive()
    assert not session.folder.exists()
    assert "The proof was stopped" in list(proof)[-1]["proof_status"]
    assert not session.folder.exists()


def test_a_second_window_waits_and_both_are_stopped(tmp_path):
    turn, job = threading.Semaphore(), ProofJob(tmp_path, tmp_path, ())
    first, second = (ProofRun(proof_stub.endless, job, turn) for _ in range(2))
    states, waiting = first.states(), second.states()
    assert next(states).text == "Reads the pictures."
    assert next(waiting).text == "Waits for the proof of another window."
    second.stop()
    assert [state.text for state in waiting] == ["The proof was stopped."]
    next(state for state in states if state.part)
    os.kill(first._process.pid, signal.SIGINT)  # as Ctrl+C does, which is for the page
    assert not next(states).is_over
    states.close()  # as gradio does when nobody listens any more
    assert first._process.exitcode == -signal.SIGKILL
    assert first.is_over
    broken = ProofRun(proof_stub.broken, job, turn)
    fault = list(broken.states())[-1].fault
    assert fault == "the proof has failed; SIGKILL ended it: perhaps the memory did not suffice"


def test_without_marked_pictures_nothing_is_started(tmp_path):
    handlers, session = window(tmp_path, proof_stub.endless, 1)
    handlers.mark("a", json.dumps({"picture": "00.png", "marks": {}}))
    handlers.protect("a", "00.png", 8, 2)
    (only,) = handlers.prove("a")
    assert "mark the object in your pictures and protect them first" in only["proof_status"]
    assert session.proof is None


def test_the_process_of_a_killed_page_ends(tmp_path):
    script = tmp_path / "page.py"
    folder = tmp_path / "window"
    folder.mkdir()
    tests = str(Path(proof_stub.__file__).parent)
    script.write_text(_KILLED.format(tests=tests, folder=str(folder)))
    # The output ends when the last process that holds it has ended.
    killed = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -9
