"""The two players of the bilevel game: the noise generator and the surrogate segmenter."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseg.models.build import SIZES, SizeSpec, build_generator, build_surrogate
    from unseg.models.generator import Generator
    from unseg.models.surrogate import Surrogate

__all__ = ["SIZES", "Generator", "SizeSpec", "Surrogate", "build_generator", "build_surrogate"]

_HOMES = {"Generator": "generator", "Surrogate": "surrogate"}


def __getattr__(name: str) -> Any:
    # Loaded when first used: the list of weights needs no torch.
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'build')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
