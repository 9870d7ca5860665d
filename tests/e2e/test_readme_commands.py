"""Every command of README.md and docs/USAGE.md runs, tiny ones by `readme_overrides.yaml`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from lab_cases import write_lab

from unseg.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/USAGE.md")]
OVERRIDES = Path(__file__).with_name("readme_overrides.yaml")
KEYS = {"append", "instead", "environment", "exit_code", "creates", "elsewhere"}
ELSEWHERE = (
    "bash scripts/test.sh",
    "UNSEG_DATA=DIR bash scripts/test.sh",
    "git ",
    "cd ",
    "source ",
)
"""Beginnings of commands that need not run here."""

USER_FOLDERS = ("data", "work_dirs", "weight_dir", "pretrained_checkpoint")
HIDDEN = (".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")


def blocks(language: str) -> list[str]:
    """Contents of the pages' fenced blocks of one language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [block for page in PAGES for block in fence.findall(page)]


def commands() -> list[str]:
    """Every command of the pages, in order, each on one line."""
    found = []
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            text = re.sub(r"(^|\s)#.*", "", line)
            if text.strip():
                found.append(" ".join(text.split()))
    return list(dict.fromkeys(found))


def load_overrides() -> dict[str, dict]:
    return yaml.safe_load(OVERRIDES.read_text(encoding="utf-8"))


def make_sandbox(folder: Path) -> Path:
    """A folder that looks like a checkout: code linked, the user's folders empty, sample files."""
    for path in ROOT.iterdir():
        if path.name not in (*USER_FOLDERS, *HIDDEN):
            (folder / path.name).symlink_to(path)
    for name in USER_FOLDERS:
        (folder / name).mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    # `photo.jpg` with its `mask.png`, and the folder `photos`, are the page's own examples.
    y, x = np.mgrid[:72, :96]
    mask = ((y - 36) ** 2 + (x - 50) ** 2 < 24**2).astype(np.uint8) * 255
    photo = np.stack([x * 2, y * 3, 255 - mask // 2], axis=-1).astype(np.uint8)
    (folder / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.png"):
        cv2.imwrite(str(folder / name), photo)
    cv2.imwrite(str(folder / "mask.png"), mask)
    write_lab(folder / "data")
    return folder


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    return make_sandbox(tmp_path_factory.mktemp("checkout"))


def test_commands_stand_in_bash_blocks():
    languages = set(re.findall(r"^```(\w+)", "\n".join(PAGES), re.MULTILINE))
    assert languages <= {"bash", "text", "python", "yaml", "bibtex", "json"}
    assert len(commands()) > 3, "the pages have lost their commands"


@pytest.mark.parametrize("example", blocks("python"))
def test_a_python_example_runs(example, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    exec(compile(example, "README.md", "exec"), {})
    protected, photo = (cv2.imread(name) for name in ("protected.png", "photo.jpg"))
    assert np.abs(protected.astype(int) - photo).max() == 8


def test_every_override_belongs_to_a_command_of_the_page():
    page = commands()
    # Scripts that the page may or may not mention at a given time are not faults.
    optional = {command for command in load_overrides() if command.startswith(ELSEWHERE)}
    assert set(load_overrides()) - optional - set(page) == set()


@pytest.mark.parametrize("command", load_overrides())
def test_overrides_are_well_formed(command):
    entry = load_overrides()[command]
    assert set(entry) <= KEYS
    if "elsewhere" in entry:
        assert command.startswith(ELSEWHERE), f"{command} must run"
    if "instead" in entry:
        assert entry["instead"].split()[:2] == command.split()[:2]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_runs(command, sandbox, monkeypatch, capfd):
    entry = load_overrides().get(command, {})
    if "elsewhere" in entry:
        return
    call = " ".join((entry.get("instead", command), entry.get("append", ""))).strip()
    monkeypatch.chdir(sandbox)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in entry.get("environment", {}).items():
        monkeypatch.setenv(name, str(value))
    if re.match(r"unseg [^|&;<>$*]+$", call):  # here, where torch is loaded
        code = main(shlex.split(call)[1:])
    else:
        shell = ["bash", "-euo", "pipefail", "-c", call]
        code = subprocess.run(shell, timeout=500, check=False).returncode
    out, err = capfd.readouterr()
    shown = f"{shlex.quote(call)}\n{out[-2000:]}\n{err[-4000:]}"
    assert code == entry.get("exit_code", 0), shown
    for pattern in entry.get("creates", []):
        assert list(sandbox.glob(pattern)), f"{pattern} was not made by {shown}"
