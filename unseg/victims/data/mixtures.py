"""Mixtures: training sets in which a share of the pictures is clean and the rest is protected."""

from __future__ import annotations

from collections.abc import Sequence

from unseg.utils.seed import derive_seed
from unseg.victims.data.picture_set import PictureSet


def clean_rows(keys: Sequence[str], share: float, *, seed: int) -> list[int]:
    """Pictures that stay clean in a mixture; a larger share contains every smaller one."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("clean share", seed, keys[i]))
    return sorted(ranked[: round(share * len(keys))])


def mixed(protected: PictureSet, clean: PictureSet, share: float, *, seed: int) -> PictureSet:
    """The protected set with the pictures of `clean_rows` taken from the clean one."""
    if protected.keys != clean.keys:
        raise ValueError("the two sets hold different pictures")
    return protected.with_some_of(clean, clean_rows(clean.keys, share, seed=seed))
