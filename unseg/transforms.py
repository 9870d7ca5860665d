"""Protecting pictures in a data pipeline: `Protect`, a torchvision v2 transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torchvision import tv_tensors
from torchvision.transforms import v2

from unseg.protection.api import load_generator, load_key, protect
from unseg.protection.methods import budget_outside
from unseg.utils.errors import UserError

Prompt = dict[str, np.ndarray]
"""What `unseg.protect` is told of a picture: nothing, a mask or boxes."""


class Protect(v2.Transform):
    """Protects the image of a sample; its labels say where, and stay as they are.

    A sample is what torchvision's v2 transforms take: any nesting of tuples, lists and
    dictionaries. Its image is one `tv_tensors.Image` of uint8, (C, H, W) or a batch (B, C, H, W),
    C = 1, 3 or 4, or one PIL image. What is protected is its `tv_tensors.Mask`, wherever that is
    not 0, (H, W) or (N, H, W), for a batch (B, H, W) or (B, N, H, W); else its
    `tv_tensors.BoundingBoxes` of any format; else the whole image. An image whose mask or boxes
    are empty stays as it is.

    Images of a batch are protected one by one, so each result is `unseg.protect`'s. It comes before
    transforms that make floats (`ToDtype`): the budget is one of whole levels.

    Args:
        generator: an embedded generator's name, a weight file, or a generator.
        epsilon: largest change inside, in levels of 0 to 255.
        epsilon_bg: largest change outside; None: 2, or 0 where the generator is a pattern.
        key: a secret on which the noise depends, as `unseg.protect` takes it. It is read once; a
            pickled transform holds it.
        device: where the generator runs: "cpu", "cuda", "cuda:N" or "auto". Images come back to
            where they were. In workers of a data loader keep "cpu".

    Raises:
        UserError: no key where one is said to be; a sample without an image or with several, an
            image of another type, or labels that do not fit it.

    Example:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from unseg.transforms import Protect
        >>> image = tv_tensors.Image(torch.full((3, 40, 60), 128, dtype=torch.uint8))
        >>> mask = tv_tensors.Mask(torch.zeros(40, 60, dtype=torch.uint8))
        >>> mask[10:30, 20:50] = 1
        >>> protected, same = Protect(epsilon=8, epsilon_bg=2)(image, mask)
        >>> change = protected.int() - image.int()
        >>> int(change.abs().max()), int(change[:, mask == 0].abs().max())
        (8, 2)
    """

    def __init__(
        self,
        generator: Any = "default",
        *,
        epsilon: float = 8,
        epsilon_bg: float | None = None,
        key: Any = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        is_named = isinstance(generator, str | Path)
        self.generator = load_generator(generator, device) if is_named else generator
        self.epsilon = epsilon
        self.epsilon_bg = budget_outside(epsilon_bg, self.generator)
        self.key = load_key(key)

    def __repr__(self) -> str:
        key = "" if self.key is None else f", key={self.key}"
        return f"Protect(epsilon={self.epsilon:g}, epsilon_bg={self.epsilon_bg:g}{key})"

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The labels that say where; of v2's own interface."""
        images = [value for value in flat_inputs if _is_image(value)]
        if len(images) != 1:
            raise UserError(
                f"Protect found {len(images)} images in a sample; give one tv_tensors.Image (wrap "
                "a plain tensor in it) or one PIL image"
            )
        image = images[0]
        for kind, read in ((tv_tensors.Mask, _from_masks), (tv_tensors.BoundingBoxes, _from_boxes)):
            labels = [value for value in flat_inputs if isinstance(value, kind)]
            if len(labels) > 1:
                found = f"{len(labels)} {kind.__name__}"
                raise UserError(f"Protect found {found} in a sample; keep one")
            if labels:
                return {"prompts": read(labels[0], image)}
        return {"prompts": [{}] * _count(image)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The protected image, or a label as it is; of v2's own interface."""
        if not _is_image(inpt):
            return inpt
        prompts = params["prompts"]
        if isinstance(inpt, PilImage.Image):
            pixels = self._protected(np.asarray(inpt), prompts[0])
            return inpt if pixels is None else PilImage.fromarray(pixels)
        pictures = inpt if inpt.ndim == 4 else inpt[None]
        if pictures.dtype != torch.uint8 or pictures.ndim != 4:
            raise UserError(
                f"image is {inpt.dtype} {tuple(inpt.shape)}; Protect takes uint8, (C, H, W) or "
                "(B, C, H, W): put it before ToDtype and Normalize"
            )
        result = pictures.clone()
        for row, prompt in enumerate(prompts):
            pixels = self._protected(pictures[row].permute(1, 2, 0).cpu().numpy(), prompt)
            if pixels is not None:
                result[row] = torch.from_numpy(pixels).permute(2, 0, 1).to(inpt.device)
        return tv_tensors.wrap(result.reshape(inpt.shape), like=inpt)

    def _protected(self, pixels: np.ndarray, prompt: Prompt | None) -> np.ndarray | None:
        """The protected pixels; None where nothing is to be protected."""
        if prompt is None:
            return None
        return protect(
            pixels,
            generator=self.generator,
            epsilon=self.epsilon,
            epsilon_bg=self.epsilon_bg,
            key=self.key,
            **prompt,
        ).image


def _is_image(value: Any) -> bool:
    return isinstance(value, tv_tensors.Image | PilImage.Image)


def _count(image: Any) -> int:
    """Number of pictures."""
    return len(image) if not isinstance(image, PilImage.Image) and image.ndim == 4 else 1


def _size(image: Any) -> tuple[int, int]:
    """(H, W)."""
    if isinstance(image, PilImage.Image):
        return image.height, image.width
    return image.shape[-2], image.shape[-1]


def _from_masks(mask: Any, image: Any) -> list[Prompt | None]:
    """One (H, W) bool mask a picture, where any of its objects is; None where none is."""
    count, size = _count(image), _size(image)
    is_batch = not isinstance(image, PilImage.Image) and image.ndim == 4
    fits = mask.shape[-2:] == size and mask.ndim in ((3, 4) if is_batch else (2, 3))
    if not fits or (is_batch and len(mask) != count):
        raise UserError(
            f"Mask is {tuple(mask.shape)}, its image is "
            f"{size if isinstance(image, PilImage.Image) else tuple(image.shape)}; they must agree "
            "in height, width and number"
        )
    objects = (mask != 0).reshape(count, -1, *size).any(1).cpu().numpy()
    return [{"mask": one} if one.any() else None for one in objects]


def _from_boxes(boxes: Any, image: Any) -> list[Prompt | None]:
    """The boxes of one picture, from edges to the first and last pixel inside; None for none."""
    if _count(image) != 1:
        raise UserError(
            "BoundingBoxes belong to one image; give a batch its Mask, or single images"
        )
    edges = v2.functional.convert_bounding_box_format(
        boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY
    )
    corners = edges.cpu().numpy().astype(np.float64).reshape(-1, 4)
    corners[:, 2:] = np.maximum(corners[:, 2:] - 1, corners[:, :2])
    return [{"boxes": corners} if len(corners) else None]
