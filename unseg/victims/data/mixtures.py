"""Which pictures of a training set stay clean in a mixture, and which are kept for validation."""

from __future__ import annotations

from collections.abc import Sequence

from unseg.utils.seed import derive_seed


def validation_rows(keys: Sequence[str], share: float) -> list[int]:
    """Pictures kept back for choosing epochs; they depend on the names alone."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("validation", keys[i]))
    return sorted(ranked[: round(share * len(keys))])


def clean_rows(keys: Sequence[str], share: float, *, seed: int) -> list[int]:
    """Pictures that stay clean in a mixture; a larger share contains every smaller one."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("clean share", seed, keys[i]))
    return sorted(ranked[: round(share * len(keys))])
