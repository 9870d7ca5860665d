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
import math
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
    """The image as the generator sees it: resized, and padded at bottom and right to a square.

    Equal to padding first and resizing then, without the memory of a square of the longer side.

    Args:
        pixels: (H, W, C) uint8 or uint16, C = 1 or 3.
        image_size: side S.
        device: where the result lies.

    Returns:
        (1, 3, S, S) float32 in [0, 1].
    """
    height, width, channels = pixels.shape
    side, top = max(height, width), float(np.iinfo(pixels.dtype).max)
    frame = torch.zeros(1, channels, image_size, image_size, device=device)
    if side == image_size:
        frame[..., :height, :width] = level_tensor(pixels, device) / top
        return frame.expand(-1, 3, -1, -1)
    rows, columns = (_touched(length, side, image_size) for length in (height, width))
    if not rows or not columns:  # so narrow that no pixel of the frame looks at it
        return frame.expand(-1, 3, -1, -1)
    # A row and a column of zeros stand for all of the padding; a second one where the operator,
    # given as many lines as it shall make, would copy them. Rows that are not read stay empty, so
    # that their memory is never taken. Interleaved channels keep the rounding of the operator.
    padded = (
        length if length == side else length + 1 + (length + 1 == count)
        for length, count in ((height, rows), (width, columns))
    )
    content = torch.empty((1, channels, *padded), device=device, memory_format=torch.channels_last)
    content[..., height:, :] = 0
    content[..., width:] = 0
    read = _rows_read(height, rows, side / image_size)
    content[:, :, torch.from_numpy(read).to(device), :width] = (
        level_tensor(pixels[read], device) / top
    )
    # `F.interpolate` with the scale of the padded square beside the size of what is not padding.
    frame[..., :rows, :columns] = torch.ops.aten.upsample_bilinear2d.default(
        content, [rows, columns], False, image_size / side, image_size / side
    )
    return frame.expand(-1, 3, -1, -1)


def _touched(length: int, side: int, image_size: int) -> int:
    """Lines of the model's frame that `length` of the square's `side` lines reach into."""
    return min(image_size, math.ceil((length + 0.5) * image_size / side - 0.5))


def _rows_read(height: int, rows: int, scale: float) -> np.ndarray:
    """Rows that a bilinear reduction to `rows` looks at, with a margin for its rounding."""
    place = np.maximum((np.arange(rows) + 0.5) * scale - 0.5, 0)
    read = [np.floor(place + shift) + step for shift in (-0.01, 0.01) for step in (0, 1)]
    return np.unique(np.clip(np.concatenate(read), 0, height - 1)).astype(np.intp)


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
                {slot: self._frame(rows[slot].pixels) for slot in slots},  # type: ignore[union-attr]
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

    def _frame(self, pixels: np.ndarray) -> Tensor:
        side = self.generator.image_size
        return model_frame(pixels, image_size=side, device=self.device)

    def _forward(self, frames: dict[int, Tensor], prompts: dict[int, Prompts]) -> Tensor:
        """Noise (batch_size, 3, n, n); rows without an image hold anything."""
        while True:
            parts = range(0, self.batch_size, self.rows_per_pass)
            try:
                found = {
                    start: self._pass(start, frames, prompts)
                    for start in parts
                    if any(start <= slot < start + self.rows_per_pass for slot in frames)
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

    def _pass(self, start: int, frames: dict[int, Tensor], prompts: dict[int, Prompts]) -> Tensor:
        """Noise of the rows from `start` on, `rows_per_pass` of them."""
        slots = range(start, start + self.rows_per_pass)
        image = self._image([frames.get(slot) for slot in slots])
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

    def _image(self, frames: Sequence[Tensor | None]) -> Tensor:
        """(rows, 3, S, S) of the model's frame, black where there is no picture."""
        if len(frames) == 1 and frames[0] is not None:
            return frames[0].contiguous()
        side = self.generator.image_size
        image = torch.zeros(len(frames), 3, side, side, device=self.device)
        for row, frame in enumerate(frames):
            if frame is not None:
                image[row] = frame[0]
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
