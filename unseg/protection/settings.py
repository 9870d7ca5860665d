"""What decides how a picture looks, and what may change its last bits: for run.json and summary."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unseg
from unseg.config.generate import GenerateConfig
from unseg.config.load import to_dict
from unseg.io.files import sha256_file
from unseg.protection.methods import Method
from unseg.protection.reading.item import ModelFrame

_DATA_KEYS = (
    "format", "void", "background", "things", "reduce_zero_label", "class_offset", "mask_values",
    "colours", "num_classes",
)  # fmt: skip
"""Keys of `data` that change a region."""


def settings_of(
    config: GenerateConfig, method: Method, frame: ModelFrame, generator_sha: str | None
) -> dict[str, Any]:
    """Flat settings; two runs with the same ones may share a folder."""
    values: dict[str, Any] = {
        "method": config.method,
        "generator.sha256": generator_sha,
        "noise.epsilon": method.options.epsilon,
        "noise.epsilon_bg": method.options.epsilon_bg,
        "run.seed": config.run.seed,
        "output.format": config.output.format,
        "output.layout": config.output.layout,
        "output.keep_suffix": config.output.keep_suffix,
    }
    values |= method.settings
    if config.output.format == "jpeg":
        values["output.quality"] = config.output.quality
    if config.region.map == "official":
        values["region.map grid"] = frame.mask_size
    for section in ("region", "prompt"):
        plain = to_dict(getattr(config, section))
        values |= {f"{section}.{key}": value for key, value in plain.items()}
    data = to_dict(config.data)
    values |= {f"data.{key}": data[key] for key in _DATA_KEYS}
    if config.data.annotations is not None:
        path = Path(config.data.root) / config.data.annotations
        values["data.annotations sha256"] = sha256_file(path)
    return values


def environment_of(device: torch.device, *, batch_size: int, is_bfloat16: bool) -> dict[str, Any]:
    """What may change the last bit of a matrix product, and so a pixel by one level.

    It is reported, not refused.
    """
    is_cpu = device.type == "cpu"
    return {
        "unseg": unseg.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device.type if is_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads() if is_cpu else None,
        "batch_size": batch_size,
        "precision": "bfloat16" if is_bfloat16 else "float32",
    }
