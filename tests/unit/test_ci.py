"""Continuous integration runs what the README tells people to run."""

from __future__ import annotations

from pathlib import Path

import yaml


def test_the_workflow_runs_the_test_command_of_the_readme_and_the_lowest_versions(
    repository: Path,
) -> None:
    jobs = yaml.safe_load((repository / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {
        name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()
    }
    command = "bash scripts/test.sh"
    assert command in (repository / "README.md").read_text()
    assert command in commands["test"].splitlines()
    assert jobs["test"]["strategy"]["matrix"]["python"][0] == "3.11"
    assert 'requires-python = ">=3.11"' in (repository / "pyproject.toml").read_text()
    assert "--resolution lowest-direct" in commands["lowest-versions"]
    assert "pytest" in commands["lowest-versions"]
