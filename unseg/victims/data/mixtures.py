"""Mixtures: training sets in which a share of the pictures is clean and the rest is protected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unseg.utils.seed import derive_seed
from unseg.victims.data.tensor_set import TensorSet


def clean_rows(keys: Sequence[str], share: float, *, seed: int) -> list[int]:
    """Pictures that stay clean in a mixture; a larger share contains every smaller one."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("clean share", seed, keys[i]))
    return sorted(ranked[: round(share * len(keys))])


def mixed(protected: TensorSet, clean: TensorSet, share: float, *, seed: int) -> TensorSet:
    """The protected set with the pictures (not the labels) of `clean_rows` taken from the clean."""
    if protected.keys != clean.keys:
        raise ValueError("the two sets hold different pictures")
    rows = clean_rows(clean.keys, share, seed=seed)
    images = protected.images.clone()
    images[rows] = clean.images[rows]
    return replace(protected, images=images)
