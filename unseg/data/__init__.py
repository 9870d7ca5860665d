"""Images, masks and prompts on their way to the models.

`unseg.data.Synthetic` is imported on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseg.data.synthetic import Synthetic

__all__ = ["Synthetic"]


def __getattr__(name: str) -> Any:
    if name == "Synthetic":
        from unseg.data.synthetic import Synthetic

        return Synthetic
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
