"""The page leaves no file: not when it is stopped, and not for long when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from generate_cases import save_generator

from unseg.cli import main
from unseg.page.folder import temporary_folder

_KILLED = """
import os, signal
from unseg.page.folder import temporary_folder
with temporary_folder() as folder:
    (folder / "window").mkdir()
    (folder / "window" / "picture.png").write_bytes(b"private")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where temporary files go, in this process and its children."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_files_of_a_killed_page_are_removed_at_the_next_start(place):
    killed = subprocess.run([sys.executable, "-c", _KILLED], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = place.iterdir()
    assert (left / "window/picture.png").exists()
    with temporary_folder() as folder:
        assert list(place.iterdir()) == [folder]
        assert folder.stat().st_mode & 0o077 == 0
    assert list(place.iterdir()) == []


def test_files_of_a_page_that_lives_and_of_others_stay(place):
    with temporary_folder() as first:
        (first / "picture.png").write_bytes(b"private")
        (place / "unseg-demo-elder").mkdir()  # no lock: it may live
        (place / "unseg-demo-link").symlink_to(first)
        (place / "unseg-demo-file").touch()
        with temporary_folder() as second:
            assert second != first
            assert (first / "picture.png").exists()
        names = {path.name for path in place.iterdir()}
    assert names == {first.name, "unseg-demo-elder", "unseg-demo-link", "unseg-demo-file"}


def test_nothing_is_removed_where_locks_do_not_work(place, monkeypatch):
    import fcntl

    def unsupported(file: Any, flags: int) -> None:
        raise OSError("no locks on this disk")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with temporary_folder() as first, temporary_folder():
        assert first.exists()


@pytest.fixture
def usual_signals():
    """As in a terminal: a test run under nohup or in the background starts with them ignored."""
    usual = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_each_signal_that_ends_the_page_removes_its_files(
    place, tmp_path, monkeypatch, capsys, usual_signals, name
):
    pytest.importorskip("gradio", reason="gradio is missing: pip install -e .[demo]")
    from unseg.page import app

    class Server:
        url = "http://127.0.0.1"
        refused = Counter({"foreign name": 2})

        def __init__(self, generator: Any, *, folder: Path, **options: Any) -> None:
            (folder / "picture.png").write_bytes(b"private")

        def wait(self) -> None:
            os.kill(os.getpid(), getattr(signal, name))
            signal.pause()

        def close(self) -> None:
            pass

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(app, "serve", Server)
    for variable in (
        "GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "NO_PROXY",
        "no_proxy",
    ):  # fmt: skip
        monkeypatch.setenv(variable, "")  # restored at the end, whatever the command sets
    weights = save_generator(tmp_path / "generator.safetensors")
    call = ["demo", "--generator", str(weights), "--device", "cpu", "--port", "0"]
    with monkeypatch.context() as patch:
        patch.setattr("unseg.commands.demo._check", lambda *given: None)
        assert main([*call, "--no-browser"]) == 0
    assert "refused because they were not of the page's windows: 2 foreign name" in (
        capsys.readouterr().out
    )
    assert list(place.iterdir()) == []
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]


def test_a_hangup_that_the_caller_wants_ignored_stays_ignored(monkeypatch):
    from unseg.commands.demo import _ended_by_signals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
