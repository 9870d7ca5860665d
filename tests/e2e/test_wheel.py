"""A wheel, installed away from the repository, is complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

import unseg

SCRIPT = """
import sys, torch, unseg
assert unseg.__file__.startswith(sys.argv[1]), unseg.__file__
from unseg.models import build_generator
from unseg.types import Prompts
generator = build_generator("tiny", 128).eval()
boxes = torch.tensor([[10.0, 10, 90, 100]])
with torch.no_grad():
    noise = generator(torch.rand(1, 3, 128, 128), Prompts(boxes=boxes))
assert noise.shape == (1, 3, 64, 64) and noise.abs().max() <= 1
from unseg.cli import main
sys.exit(main(["--version"]))
"""


def run(*command: str, **options) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.e2e
@pytest.mark.slow
def test_an_installed_wheel_builds_a_generator_outside_the_repository(repository, tmp_path):
    # A copy is built, so that no build folder appears beside the sources.
    source, elsewhere, target = tmp_path / "source", tmp_path / "elsewhere", tmp_path / "target"
    elsewhere.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "unseg", source / "unseg", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"))
    run(sys.executable, *build, str(source))
    (wheel,) = (tmp_path / "dist").glob("unseg-*.whl")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--target", str(target))
    run(sys.executable, "-m", "pip", *install, str(wheel))

    installed = {p.relative_to(target / "unseg") for p in (target / "unseg").rglob("*")}
    tracked = {p.relative_to(source / "unseg") for p in (source / "unseg").rglob("*.*")}
    assert tracked - installed == set()
    environment = os.environ | {"PYTHONPATH": str(target)}
    printed = run(sys.executable, "-c", SCRIPT, str(target), cwd=elsewhere, env=environment)
    assert printed == f"unseg {unseg.__version__}\n"
