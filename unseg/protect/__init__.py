"""Protecting pictures: methods, regions, budgets, files, and the proof in the manifest.

The package itself can be called: `unseg.protect(image, mask=...)` is `unseg.api.protect`. A
function of that name beside the package would be replaced by it as soon as any of its modules is
imported.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _CallablePackage(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Protect one image; see `unseg.api.protect`."""
        from unseg.protect.array import protect

        return protect(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
