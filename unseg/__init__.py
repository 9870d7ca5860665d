"""UnSeg: one promptable noise generator that makes any image unlearnable for segmentation."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded when first used: `unseg --help` and the configuration need no torch.
    if name == "protect":
        return importlib.import_module("unseg.protect")  # a package that can be called
    if name in ("Protected", "load_generator"):
        return getattr(importlib.import_module("unseg.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
