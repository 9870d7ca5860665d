"""A generator as an ONNX file, for programs in other languages and for browsers.

The graph is `Generator.forward` for one image, in float32, with weights inside:

- `image` (1, 3, S, S) float32 in [0, 1]: RGB, padded to a square at bottom and right by black, then
  resized bilinearly to S;
- `boxes` (1, 4) float32 XYXY, `point_coords` (1, 8, 2) float32 (X, Y): in pixels of that square;
- `point_labels` (1, 8) int32: 1 object, 0 background, -2 no point;
- `mask_inputs` (1, 1, 4g, 4g) float32 in {0, 255};
- output `noise` (1, 3, 4g, 4g) float32 in [-1, 1], over the same square.

A box or a mask full of NaN is none. The graph's metadata hold the generator's build arguments.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unseg.io.files import atomic_write_bytes
from unseg.models.generator import Generator
from unseg.types import ABSENT_LABEL, Prompts
from unseg.utils.errors import UserError

OPSET = 20
TORCH = (2, 9)
"""The first torch whose exporter is built for `torch.export`."""

NUM_POINTS = 8
INPUTS = ("image", "boxes", "point_coords", "point_labels", "mask_inputs")
METADATA_KEY = "unseg"

_MAX_BYTES = 1 << 30
"""A protobuf message holds at most 2 GB; a graph of this size is for no browser anyway."""


def save_onnx(generator: Generator, path: str | Path) -> None:
    """Write a generator as ONNX, opset 20.

    Args:
        generator: of any size up to 1 GB of weights.
        path: file to write.

    Raises:
        UserError: the extra `onnx` is not installed, torch is older than 2.9, the generator is too
            large, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: end the name in .onnx")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX needs {" and ".join(missing)}: pip install "unseg[onnx]"')
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        raise UserError(f"ONNX needs torch {TORCH[0]}.{TORCH[1]}, found {torch.__version__}")
    size = sum(value.nbytes for value in generator.state_dict().values())
    if size > _MAX_BYTES:
        raise UserError(
            f"{path}: the generator has {size:,} bytes; ONNX takes up to {_MAX_BYTES:,}"
        )
    graph = _Graph(copy.deepcopy(generator).cpu().eval())
    with _silent(), torch.no_grad():
        program: Any = torch.onnx.export(
            graph,
            no_prompts(generator),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=("noise",),
            verbose=False,
        )
    program.model.metadata_props[METADATA_KEY] = json.dumps(generator.build_arguments)
    with tempfile.TemporaryDirectory(prefix="unseg-onnx-") as folder:
        file = Path(folder) / "generator.onnx"
        program.save(file, external_data=False)
        atomic_write_bytes(path, file.read_bytes())


def no_prompts(generator: Generator) -> tuple[Tensor, ...]:
    """Inputs of the graph, in the order of `INPUTS`: a black image and no prompt of any kind."""
    side, mask_side = generator.image_size, generator.noise_size
    return (
        torch.zeros(1, 3, side, side),
        torch.full((1, 4), torch.nan),
        torch.zeros(1, NUM_POINTS, 2),
        torch.full((1, NUM_POINTS), ABSENT_LABEL, dtype=torch.int32),
        torch.full((1, 1, mask_side, mask_side), torch.nan),
    )


class _Graph(nn.Module):
    """The generator with its prompts one by one, and the shortest of its exact attentions."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator
        generator.image_encoder.attention_backend = "plain"

    def forward(
        self, image: Tensor, boxes: Tensor, coords: Tensor, labels: Tensor, masks: Tensor
    ) -> Tensor:
        prompts = Prompts(boxes=boxes, point_coords=coords, point_labels=labels, mask_inputs=masks)
        return self.generator(image, prompts)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's notes on its own inner life."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
