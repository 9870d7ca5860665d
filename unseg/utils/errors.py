"""Errors that a user can cause and mend: shown as one line, exit code 2, no traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the caller. The message names the file or key, what was found and the remedy."""


class ConfigError(UserError):
    """One or more faults of a configuration, all reported at once.

    Attributes:
        problems: one line for each fault.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
