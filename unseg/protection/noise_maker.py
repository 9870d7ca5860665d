"""The generator's forward pass over images of different sizes, reproducible to the last bit.

A matrix product of another shape may round differently in its last bit, and one bit can move a
pixel by a level. So that a picture's bytes depend on nothing but the picture and the settings, an
image always runs in a batch of the full size, in the row that its place in the list gives it;
rows of images that are done, failed or another rank's stay empty. Images whose prompts differ in
kind run in separate passes, because token counts change shapes too.

Where a batch does not fit into the device's memory, it and all later ones run in halves, and the
log says so.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.noise import Carrier
from unseg.types import ABSENT_LABEL, Prompts
from unseg.utils.errors import UserError
from unseg.utils.processor import BFLOAT16_INSTRUCTIONS, bfloat16_instructions

_log = logging.getLogger(__name__)

DEFAULT_CUDA_BATCH = 8


@dataclass(frozen=True)
class PromptedImage:
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
    """Noise of images with prompts, in batches whose shape varies only where memory runs out.

    Args:
        generator: a `Generator`; moved to the device and to evaluation mode.
        device: where it runs.
        precision: "auto", "float32" or "bfloat16"; see `runs_in_bfloat16`. On a CPU bfloat16 is the
            frozen encoder's alone (`Generator.encoder_dtype`).
        batch_size: rows of a pass; None: 8 on CUDA, 1 on a CPU.

    Attributes:
        carrier: of the noise.
        rows_per_pass: `batch_size`, halved each time the device ran out of memory.
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
        self.carrier: Carrier = generator.noise_carrier
        self.device = device
        self.batch_size = batch_size or default_batch_size(device)
        self.rows_per_pass = self.batch_size
        self.is_bfloat16 = runs_in_bfloat16(device, precision)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[PromptedImage | None]) -> list[Tensor | None]:
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
    def of_one_image(self, rows: Sequence[PromptedImage]) -> Tensor:
        """Noise (K, 3, n, n) of several prompts of one image, in chunks of full batches."""
        noises: list[Tensor] = []
        for start in range(0, len(rows), self.batch_size):
            chunk = self(rows[start : start + self.batch_size])
            noises += [n for n in chunk if n is not None]
        return torch.cat(noises)

    def _forward(self, pixels: dict[int, np.ndarray], prompts: dict[int, Prompts]) -> Tensor:
        """Noise (batch_size, 3, n, n); rows without an image hold anything."""
        while True:
            parts = range(0, self.batch_size, self.rows_per_pass)
            try:
                found = {
                    start: self._pass(start, pixels, prompts)
                    for start in parts
                    if any(start <= slot < start + self.rows_per_pass for slot in pixels)
                }
            except torch.OutOfMemoryError:
                if self.rows_per_pass == 1:
                    raise UserError(
                        f"{self.device}: is out of memory with a single image; free memory of the "
                        "device, or set run.device=cpu"
                    ) from None
            else:
                filler = torch.empty_like(next(iter(found.values())))
                return torch.cat([found.get(start, filler) for start in parts])
            # Not inside the handler: the error's traceback holds the tensors that did not fit.
            self._halve()

    def _halve(self) -> None:
        before, self.rows_per_pass = self.rows_per_pass, self.rows_per_pass // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning(
            "%s is out of memory with %d images in one pass; goes on with %d "
            "(run.batch_size=%d saves the attempt)",
            self.device,
            before,
            self.rows_per_pass,
            self.rows_per_pass,
        )

    def _pass(
        self, start: int, pixels: dict[int, np.ndarray], prompts: dict[int, Prompts]
    ) -> Tensor:
        """Noise of the rows from `start` on, `rows_per_pass` of them."""
        slots = range(start, start + self.rows_per_pass)
        image = self._image([pixels.get(slot) for slot in slots])
        filler = next(iter(prompts.values()))
        batch = Prompts.cat([prompts.get(slot, filler) for slot in slots], [1] * len(slots))
        on_cpu = self.device.type == "cpu"
        self.generator.encoder_dtype = torch.bfloat16 if self.is_bfloat16 and on_cpu else None
        cast: Any = nullcontext()
        if self.is_bfloat16 and not on_cpu:
            cast = torch.autocast(self.device.type, dtype=torch.bfloat16)
        with cast:
            noise = self.generator(image, batch.to(self.device))
        return noise.float()

    def _image(self, pictures: Sequence[np.ndarray | None]) -> Tensor:
        """(rows, 3, S, S) of the model's frame, black where there is no picture."""
        side = self.generator.image_size
        if len(pictures) == 1 and pictures[0] is not None:
            return model_frame(pictures[0], image_size=side, device=self.device).contiguous()
        image = torch.zeros(len(pictures), 3, side, side, device=self.device)
        for row, picture in enumerate(pictures):
            if picture is not None:
                image[row] = model_frame(picture, image_size=side, device=self.device)[0]
        return image


def runs_in_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether the generator computes in bfloat16, which the log tells for a CPU.

    Args:
        device: where it runs.
        precision: "float32", "bfloat16", or "auto": bfloat16 but on a CPU without instructions
            for it.
    """
    if precision == "float32" or device.type == "cuda":
        return precision != "float32"
    found = bfloat16_instructions()
    names = " and ".join(found) or f"none of {', '.join(BFLOAT16_INSTRUCTIONS)}"
    is_bfloat16 = precision == "bfloat16" or bool(found)
    _log.info(
        "the image encoder runs in %s (bfloat16 instructions of this CPU: %s)",
        "bfloat16" if is_bfloat16 else "float32",
        names,
    )
    return is_bfloat16


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
