"""A result says by which command, commit and versions it came about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from unseg.utils.provenance import commit_of, package_versions, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    call = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_is_marked_where_files_differ_from_it_and_no_checkout_has_none(tmp_path):
    assert commit_of(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit_of(tmp_path) is None, "a checkout without a commit"
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "unlisted.txt").write_text("2")
    assert commit_of(tmp_path) == commit
    (tmp_path / "a.txt").write_text("3")
    assert commit_of(tmp_path) == commit + "+"


def test_versions_are_those_of_this_process():
    found = provenance("unseg evaluate a.yaml")
    assert found["command"] == "unseg evaluate a.yaml"
    versions = (found["environment"]["torch"], str(torch.__version__))
    assert len({version.partition("+")[0] for version in versions}) == 1
    assert package_versions(["no-such-package"]) == {"no-such-package": None}
