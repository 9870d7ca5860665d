"""Seeds and random generators derived from what they are for, never from global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and its order, alike on every machine.

    Args:
        parts: for example (run seed, epoch, sample index, purpose). The number 1 and the text "1"
            differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = part if isinstance(part, str) else f"{int(part)}"
        data = text.encode(errors="surrogateescape")  # names of files are bytes
        # Kind and length first, so that ("ab", "c") and ("a", "bc") cannot meet.
        digest.update(f"{'s' if isinstance(part, str) else 'i'}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "big") >> 1


def torch_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by `derive_seed(*parts)`."""
    return np.random.default_rng(derive_seed(*parts))
