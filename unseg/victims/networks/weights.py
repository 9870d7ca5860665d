"""Victim weights from files: whole victims, bare networks, or encoders alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unseg.io.weight_files.read import read_weight_file
from unseg.utils.errors import UserError
from unseg.victims.networks.victim import Victim

_ENCODERS = (
    "encoder",
    "features",
    "segformer",
    "backbone.body",  # torchvision's detectors
    "model.pixel_level_module.encoder",  # Mask2Former
    "model.backbone.model",  # detectors of transformers
)
_CONTAINERS = ("state_dict", "model", "victim")

MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a folder of transformers has its weights."""


def load_weights(victim: Victim, path: str | Path) -> str:
    """Load a file strictly into the part of the victim that has exactly its keys.

    Tried in this order: the whole victim, its network, its encoder (`encoder`, `features`,
    `segformer` or what stands for it); for an encoder, keys of a classifier head that it has not
    are left out. Parts that are models of transformers also take the names under which its
    `save_pretrained` writes them, completely or not at all.

    Returns:
        The name of the part that was loaded.

    Raises:
        UserError: unreadable, or no part fits.
    """
    state = victim.translated(read_state_dict(path))
    reasons = []
    for name, part in _parts(victim):
        found = state
        if name not in ("victim", "network"):
            own = part.state_dict()
            found = {k: v for k, v in state.items() if k in own}
        faults = _faults(part, found)
        if faults and hasattr(part, "config_class"):
            found, faults = _as_written_by_transformers(part, state)
        if not faults:
            part.load_state_dict(found)
            return name
        found_faults = [f"{len(k)} keys {what}, first {k[0]}" for what, k in faults.items()]
        reasons.append(f"{name}: {'; '.join(found_faults)}")
    raise UserError(f"{path}: these weights fit no part of the victim ({' | '.join(reasons)})")


def _faults(part: nn.Module, found: dict[str, Tensor]) -> dict[str, list[str]]:
    """What keeps tensors from being exactly those of a part; empty where they are."""
    own = part.state_dict()
    faults = {
        "missing": sorted(set(own) - set(found)),
        "unexpected": sorted(set(found) - set(own)),
        "of another shape": sorted(
            k for k in set(own) & set(found) if own[k].shape != found[k].shape
        ),
    }
    return {what: keys for what, keys in faults.items() if keys}


def _as_written_by_transformers(
    part: Any, state: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Tensors under the names of a model of transformers, read as it reads its own files.

    `save_pretrained` writes many models under older names, and tensors with two names once; only
    `from_pretrained` knows how to undo both. It is given the tensors and not their folder, in
    which it would also look for adapters and for checkpoints whose index is a pickle.

    Returns:
        The tensors, and what does not fit, as of `_faults`.
    """
    with _quiet_transformers():
        model, info = type(part).from_pretrained(
            None,
            config=part.config,
            state_dict=state,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
            local_files_only=True,
        )
    faults = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(key for key, *_ in info["mismatched_keys"]),
    }
    return model.state_dict(), {what: keys for what, keys in faults.items() if keys}


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without the library's progress bars and tables of keys on the console."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def _parts(victim: Victim) -> list[tuple[str, nn.Module]]:
    parts: list[tuple[str, nn.Module]] = [("victim", victim), ("network", victim.network)]
    for name in _ENCODERS:
        try:
            parts.append((name, victim.network.get_submodule(name)))
        except AttributeError:
            continue
    return parts


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or torch file, or of a folder of transformers with one of either.

    Raises:
        UserError: absent, unreadable, or not a dictionary of tensors. No code in it has run.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in MODEL_FILES if (path / name).is_file()), path)
    state: Any = read_weight_file(path).content
    for container in _CONTAINERS:
        if isinstance(state.get(container), Mapping):
            state = state[container]
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"{path}: holds no dictionary of tensors")
    return dict(state)
