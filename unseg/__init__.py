"""UnSeg: one promptable noise generator that makes any image unlearnable for segmentation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseg.protection.api import Protected, load_generator, protect

__version__ = "0.1.0"
__all__ = ["Protected", "__version__", "load_generator", "protect"]


def __getattr__(name: str) -> Any:
    # Loaded when first used: `unseg --help` and the configuration need no torch.
    if name in ("Protected", "load_generator", "protect"):
        return getattr(importlib.import_module("unseg.protection.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
