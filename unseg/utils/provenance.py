"""What a measurement was made with: the program's version and commit, packages, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "pillow")


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Version of each package; None where it is not installed."""
    return {name: _version(name) for name in names}


def commit_of(folder: Path) -> str | None:
    """Commit of a checkout, with `+` where tracked files differ from it; None for no checkout."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "+" * bool(changed)


def provenance(command: str) -> dict[str, Any]:
    """Origin of a result, as plain values.

    Args:
        command: as a person would type it.

    Returns:
        `command`, `commit`, and `environment` with versions, platform and processors.
    """
    root = Path(__file__).parents[2]
    return {
        "command": command,
        "commit": commit_of(root),
        "environment": {
            "unseg": _version("unseg"),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
            **package_versions(),
        },
    }


def _git(folder: Path, *arguments: str) -> str:
    call = ("git", "-C", str(folder), *arguments)
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
