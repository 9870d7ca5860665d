"""Masks as numbers: foreground is 1 or above 127, told apart by looking."""

from __future__ import annotations

import numpy as np

from unseg.utils.errors import UserError

THRESHOLD = 127
"""Foreground is above it; JPEG masks carry compression noise of a few levels."""

NO_OBJECT = f"mask is all black (no pixel above {THRESHOLD})"
"""Why a sample cannot be learnt from."""


def holds_ones(values: np.ndarray) -> bool:
    """Whether foreground, if there is any, is stored as 1: no value is larger."""
    return bool(values.max(initial=0) <= 1)


def object_of(values: np.ndarray) -> np.ndarray:
    """(H, W) bool object of a mask of any number type."""
    if values.dtype == bool:
        return values
    return values > (0 if holds_ones(values) else THRESHOLD)


def ones_to_255(values: np.ndarray, *, place: object, remedy: str) -> np.ndarray:
    """(H, W) uint8 mask of {0, 255} from one of a data set that stores {0, 1}.

    Args:
        values: (H, W) uint8.
        place: the file, for the message.
        remedy: what to do about a mask that is stored otherwise.

    Raises:
        UserError: it holds a value above 1.
    """
    if not holds_ones(values):
        raise UserError(
            f"{place}: holds the value {values.max()}, but the masks of this set are 0 and 1; "
            f"{remedy}"
        )
    return values * np.uint8(255)
