"""The generator's forward pass over images of different sizes, reproducible to the last bit.

A matrix product of another shape may round differently in its last bit, and one bit can move a
pixel by a level. So that a picture's bytes depend on nothing but the picture and the settings, an
image always runs in a batch of the full size, in the row that its place in the list gives it;
rows of images that are done, failed or another rank's stay empty. Images whose prompts differ in
kind run in separate passes, because token counts change shapes too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.types import ABSENT_LABEL, Prompts

DEFAULT_CUDA_BATCH = 8


@dataclass(frozen=True)
class Row:
    """One image and one prompt of it.

    Attributes:
        pixels: (H, W, C) uint8 or uint16, upright, C = 1 or 3.
        prompts: of a batch of one, in the model's frame.
    """

    pixels: np.ndarray
    prompts: Prompts


def model_frame(pixels: np.ndarray, *, image_size: int, device: torch.device | str) -> Tensor:
    """The image as the generator sees it: padded at bottom and right to a square, then resized.

    Args:
        pixels: (H, W, C) uint8 or uint16, C = 1 or 3.
        image_size: side S.
        device: where the result lies.

    Returns:
        (1, 3, S, S) float32 in [0, 1].
    """
    height, width = pixels.shape[:2]
    image = level_tensor(pixels, device) / float(np.iinfo(pixels.dtype).max)
    side = max(height, width)
    image = F.pad(image, (0, side - width, 0, side - height))
    if side != image_size:
        image = F.interpolate(image, (image_size, image_size), mode="bilinear", align_corners=False)
    return image.expand(-1, 3, -1, -1)


def level_tensor(pixels: np.ndarray, device: torch.device | str) -> Tensor:
    """(H, W, C) uint8 or uint16 as a (1, C, H, W) float32 tensor; the narrow type travels."""
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.int32)  # torch computes little with unsigned 16 bits
    elif not pixels.flags.writeable:
        pixels = pixels.copy()
    levels = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return levels.permute(2, 0, 1)[None].float()


class NoiseMaker:
    """Noise of images with prompts, in batches whose shape never varies.

    Args:
        generator: a `Generator`; moved to the device and to evaluation mode.
        device: where it runs.
        precision: "auto", "float32" or "bfloat16".
        batch_size: rows of a pass; None: 8 on CUDA, 1 on a CPU.
    """

    def __init__(
        self,
        generator: Any,
        *,
        device: torch.device,
        precision: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        self.generator = generator.to(device).eval()
        self.device = device
        self.batch_size = batch_size or default_batch_size(device)
        on_cuda = device.type == "cuda"
        self.is_bfloat16 = precision == "bfloat16" or (precision == "auto" and on_cuda)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Row | None]) -> list[Tensor | None]:
        """Noise (1, 3, n, n) of each row, None where the row is; at most `batch_size` rows."""
        assert len(rows) <= self.batch_size
        passes: dict[tuple, list[int]] = defaultdict(list)
        prompts = [None if row is None else _padded(row.prompts) for row in rows]
        for slot, prompt in enumerate(prompts):
            if prompt is not None:
                passes[_signature(prompt)].append(slot)
        result: list[Tensor | None] = [None] * len(rows)
        for slots in passes.values():
            noise = self._forward(
                {slot: rows[slot].pixels for slot in slots},  # type: ignore[union-attr]
                {slot: prompts[slot] for slot in slots},  # type: ignore[misc]
            )
            for slot in slots:
                result[slot] = noise[slot : slot + 1]
        return result

    @torch.inference_mode()
    def of_one_image(self, rows: Sequence[Row]) -> Tensor:
        """Noise (K, 3, n, n) of several prompts of one image, in chunks of full batches."""
        noises: list[Tensor] = []
        for start in range(0, len(rows), self.batch_size):
            chunk = self(rows[start : start + self.batch_size])
            noises += [n for n in chunk if n is not None]
        return torch.cat(noises)

    def _forward(self, pixels: dict[int, np.ndarray], prompts: dict[int, Prompts]) -> Tensor:
        side = self.generator.image_size
        image = torch.zeros(self.batch_size, 3, side, side, device=self.device)
        for slot, picture in pixels.items():
            image[slot : slot + 1] = model_frame(picture, image_size=side, device=self.device)
        filler = next(iter(prompts.values()))
        parts = [prompts.get(slot, filler) for slot in range(self.batch_size)]
        batch = Prompts.cat(parts, [1] * len(parts)).to(self.device)
        cast: Any = nullcontext()
        if self.is_bfloat16:
            cast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with cast:
            noise = self.generator(image, batch)
        return noise.float()


def default_batch_size(device: torch.device) -> int:
    """8 on CUDA; 1 on a CPU, where a batch gains nothing and costs memory."""
    return DEFAULT_CUDA_BATCH if device.type == "cuda" else 1


def _padded(prompts: Prompts) -> Prompts:
    """The prompts with absent points up to a power of two, so that few shapes occur."""
    if prompts.point_coords is None or prompts.point_labels is None:
        return prompts
    count = prompts.point_coords.shape[1]
    wanted = 1 << max(count - 1, 0).bit_length()
    return Prompts(
        boxes=prompts.boxes,
        mask_inputs=prompts.mask_inputs,
        point_coords=F.pad(prompts.point_coords, (0, 0, 0, wanted - count)),
        point_labels=F.pad(prompts.point_labels, (0, wanted - count), value=ABSENT_LABEL),
    )


def _signature(prompts: Prompts) -> tuple:
    points = 0 if prompts.point_coords is None else prompts.point_coords.shape[1]
    return prompts.boxes is not None, points, prompts.mask_inputs is not None
