"""Why a picture failed, in one line: for the manifest, and for whoever reads it."""

from __future__ import annotations

import logging

import cv2
import torch

from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)

_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad allocation")
"""What torch says on a CPU under Linux and Windows, and on a GPU; what OpenCV passes on."""


def reason_of(key: str, error: Exception, *, size: tuple[int, int] | None = None) -> str:
    """One line for the manifest; a fault that is ours keeps its traceback in the log.

    Args:
        key: names the picture.
        error: what it raised.
        size: (H, W), where the picture could be read.
    """
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if is_out_of_memory(error):
        shown = "the picture" if size is None else f"a picture of {size[1]} x {size[0]} pixels"
        return f"{key}: {shown} does not fit into the memory that is left; make it smaller"
    _log.warning("%s: unexpected fault", key, exc_info=error)
    return f"{key}: unexpected {type(error).__name__}: {text}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, torch's on a CPU or a GPU, or OpenCV's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)
