"""Segment Anything's modules, as the `segment_anything` package has them.

Its own `__init__` imports its predictors too, and through torchvision these import torch's
compiler: nearly two seconds, as long as `import torch` itself. Building a model needs none of it.
This module therefore takes the folder `segment_anything/modeling` as its package path, and Python
finds `unseg.models.sam_modules.image_encoder` and its neighbours there.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path


def _folder() -> str:
    """Where the installed package keeps its modules; finding a package runs nothing of it."""
    spec = util.find_spec("segment_anything")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'segment_anything'", name="segment_anything")
    return str(Path(spec.submodule_search_locations[0]) / "modeling")


__path__ = [_folder()]
