"""Which keys of a training run are its method, so that a resumed run must repeat them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NOT_METHOD = (
    "name",
    "device",
    "resume",
    "resume_from",
    "output",
    "validate",
    "data.root",
    "data.links_to",
    "data.num_workers",
    "generator.weights",
    "surrogate.weights",
    "surrogate.checkpoint_blocks",
    "schedule.epochs",
    "schedule.steps",
    "optim.micro_batch_size",
)
"""Keys that may differ between a checkpoint and the run that resumes it.

They say where things lie, how the run is watched, how long it lasts or how a step is divided;
initial weights are in the checkpoint already.
"""

YOUNGER = {"robust.sizes": [1.0, 1.0]}
"""Keys that checkpoints may lack because they are older, and what was so before."""


def method_differences(
    stored: dict[str, Any], wanted: dict[str, Any], *, free: tuple[str, ...] = NOT_METHOD
) -> list[str]:
    """`key: stored -> wanted` for each key of the method in which two configurations differ.

    Args:
        stored: of the checkpoint.
        wanted: of the run.
        free: dotted keys, or sections, that may differ.
    """
    return list(_differences(stored, wanted, "", free))


def _differences(stored: Any, wanted: Any, prefix: str, free: tuple[str, ...]) -> Iterator[str]:
    if prefix in free:
        return
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in sorted(stored.keys() | wanted.keys()):
            full = f"{prefix}.{key}" if prefix else key
            older = stored.get(key, YOUNGER.get(full))
            yield from _differences(older, wanted.get(key), full, free)
    elif stored != wanted:
        yield f"{prefix}: {stored} in the checkpoint, {wanted} now"
