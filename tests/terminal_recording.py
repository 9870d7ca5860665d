"""docs/TERMINAL.md: what `unseg protect` prints in a terminal, recorded from a real one.

    python tests/terminal_recording.py docs/TERMINAL.md      (needs scikit-image, extra `dev`)

A child process runs the commands in a pseudo-terminal; the parent keeps the text as it looks when
all is done, and one sight of the bar. tests/unit/test_terminal_page.py records again and compares
all but times and decimal numbers.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 116
INTERRUPTED_AFTER = 20

SESSIONS = {
    "One picture": (
        "A mask says what to protect. `echo $?` shows the exit code.",
        ["unseg protect photo.jpg --mask mask.png --output protected"],
    ),
    "A folder of 50": (
        "Each picture gets a line. The bar stays below the lines and goes when all is done.",
        ["unseg protect photos --output protected_photos"],
    ),
    "An interrupted folder": (
        f"Ctrl+C after {INTERRUPTED_AFTER} pictures. The same command continues.",
        ["unseg protect photos --output again"] * 2,
    ),
    "A broken file": (
        "It is named with its reason, and the others are protected.",
        ["unseg protect mixed --output protected_mixed"],
    ),
    "For programs, and for scripts": (
        "`--json` prints what `manifest.jsonl` holds; `--quiet` prints problems alone.",
        [
            "unseg protect photo.jpg --mask mask.png --output protected --json",
            "unseg protect mixed --output protected_mixed --quiet",
        ],
    ),
}

_BAR = re.compile(r" +\d+ % \|[^\r\n\x1b]*left")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def write_files(folder: Path) -> None:
    """The recording's pictures: scikit-image's `coffee` (CC0), small, and a mask drawn by hand."""
    import cv2
    import numpy as np
    from skimage import data

    photo = cv2.resize(data.coffee(), (150, 100), interpolation=cv2.INTER_AREA)[..., ::-1]
    y, x = np.mgrid[:100, :150]
    cup = ((y - 50) / 42) ** 2 + ((x - 75) / 52) ** 2 < 1
    cv2.imwrite(str(folder / "photo.jpg"), photo)
    cv2.imwrite(str(folder / "mask.png"), cup.astype(np.uint8) * 255)
    (folder / "photos").mkdir()
    (folder / "mixed").mkdir()
    for number in range(50):
        path = folder / "photos" / f"{number:02}.jpg"
        cv2.imwrite(str(path), np.roll(photo, 3 * number, axis=1))
    whole = (folder / "photo.jpg").read_bytes()
    (folder / "mixed" / "good.jpg").write_bytes(whole)
    (folder / "mixed" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "mixed" / "notes.txt").write_text("no picture\n")


def record() -> str:
    """The page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        raw = _in_terminal([sys.executable, __file__, "--inside"], folder)
    parts = raw.split("\f\r\n")[1:]
    assert len(parts) == len(SESSIONS), raw
    bars = _BAR.findall(parts[1])
    bar = bars[len(bars) // 2].rstrip()
    sections = []
    for (title, (words, _)), part in zip(SESSIONS.items(), parts, strict=True):
        text = "\n".join(_shortened([_at_last(line) for line in part.split("\n")])).strip()
        sections.append(f"## {title}\n\n{words}\n\n```text\n{text}\n```")
        if title == "A folder of 50":
            sections.append(f"While it runs, the last line is this:\n\n```text\n{bar}\n```")
    head = (
        "# `unseg protect` in a terminal\n\n"
        "Recorded by `tests/terminal_recording.py`; a test records again and compares. Long lists\n"
        "are shortened (`[...]`). A terminal also shows colours: failures are red, pictures of an\n"
        "earlier run are dim. The photograph is scikit-image's `coffee` (CC0, Rachel Michetti)."
    )
    return "\n\n".join([head, *sections]) + "\n"


def _in_terminal(command: list[str], folder: Path) -> str:
    """All that a command writes to a terminal of 116 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    environment.pop("NO_COLOR", None)
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        os.close(slave)
        chunks = []
        while True:
            try:
                chunk = os.read(master, 1 << 16)
            except OSError:  # the child has closed the terminal
                break
            if not chunk:
                break
            chunks.append(chunk)
        assert process.wait() == 0, b"".join(chunks).decode()
    os.close(master)
    return b"".join(chunks).decode()


def _at_last(line: str) -> str:
    """A line as it looks when everything that overwrote it is written; a bar is gone by then."""
    shown = ""
    for text in _CONTROL.sub("", line.rstrip("\r")).split("\r"):
        shown = text + shown[len(text) :]
    return "" if _BAR.search(shown) else shown.rstrip()


def _shortened(lines: list[str]) -> list[str]:
    """What each command prints, cut in its middle where it is long; long lines, broken."""
    blocks: list[list[str]] = []
    for line in lines:
        if line.startswith("$ "):
            blocks.append([])
        if line:
            blocks[-1].append(line)
    lines = []
    for block in blocks:
        lines += block if len(block) < 12 else [*block[:4], "[...]", *block[-5:]]
    return [line if len(line) <= 118 else f"{line[:110]} [...]" for line in lines]


def inside() -> None:
    """Run the sessions; in the terminal."""
    from unseg.cli import main
    from unseg.commands._screen import Screen

    # A program in the background is born with Ctrl+C ignored; one in a terminal is not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    steps = 0
    step = Screen.step

    def counted_step(screen: Screen) -> None:
        nonlocal steps
        step(screen)
        steps += 1
        if steps == INTERRUPTED_AFTER:
            signal.raise_signal(signal.SIGINT)  # what a terminal does at Ctrl+C

    for title, (_, calls) in SESSIONS.items():
        print("\f")
        for number, call in enumerate(calls):
            print(f"$ {call}", flush=True)
            is_interrupted = title == "An interrupted folder" and number == 0
            Screen.step = counted_step if is_interrupted else step
            code = main(shlex.split(call)[1:])
            print(f"$ echo $?\n{code}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        inside()
    elif len(sys.argv) == 2:
        Path(sys.argv[1]).write_text(record(), encoding="utf-8")
    else:
        sys.exit("usage: python tests/terminal_recording.py PAGE")
