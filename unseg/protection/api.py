"""Protecting an array in memory: `unseg.protect` and `unseg.load_generator`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unseg.data.mask_values import object_of
from unseg.data.prompt_checks import checked_boxes, checked_points
from unseg.io.pictures import Picture
from unseg.models.weights import load_noise
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import (
    MethodOptions,
    NoiseKey,
    UnSeg,
    budget_outside,
    full_size_noise,
)
from unseg.protection.noise_maker import NoiseMaker, PromptedImage
from unseg.protection.reading.prompts import model_prompts, union_box
from unseg.protection.reading.region import region_from_prompt
from unseg.protection.writing.budget_check import measure
from unseg.utils.distributed import pick_device
from unseg.utils.errors import UserError


@dataclass(frozen=True)
class Protected:
    """A protected image and how it came about.

    Attributes:
        image: same type and shape as the input.
        noise: what was added, int32, same shape as the image: in its own levels (0 to 255, or
            0 to 65535); zero in an alpha channel.
        region: (H, W) bool, where the larger budget applies.
        report: `linf_inside`, `linf_outside` and `rms` in 8-bit levels, `psnr` in dB,
            `region_share`, `region_source`, `epsilon`, `epsilon_bg`.
    """

    image: np.ndarray
    noise: np.ndarray
    region: np.ndarray
    report: dict[str, Any]


def load_generator(name_or_path: str | Path | None = None, device: str = "auto") -> Any:
    """A generator in evaluation mode.

    Args:
        name_or_path: an embedded generator's name, a weight file, or None for the embedded default.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such generator; the message names the options.

    Example:
        >>> import unseg
        >>> generator = unseg.load_generator("robust", device="cpu")
        >>> generator.image_size, str(generator.noise_carrier)
        (128, 'luma')
    """
    name = "default" if name_or_path is None else name_or_path
    return load_noise(name, device=pick_device(device))


def protect(
    image: np.ndarray,
    mask: np.ndarray | None = None,
    boxes: Any = None,
    points: Any = None,
    point_labels: Any = None,
    region: np.ndarray | None = None,
    generator: Any = None,
    epsilon: float = 8,
    epsilon_bg: float | None = None,
    key: NoiseKey | bytes | str | Path | None = None,
) -> Protected:
    """Protect one image.

    The prompt (mask, boxes or points) steers the noise. The region sets the budget: `region`, else
    the mask, else the filled boxes, else an object found from the points, else the whole image.

    Args:
        image: (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4), uint8 or uint16, RGB order;
            the second and fourth shape carry alpha last, which stays as it is.
        mask: (H, W) bool, or a number type where above 127 is the object (or {0, 1}).
        boxes: (4,) or (N, 4), x0, y0, x1, y1 inclusive, in pixels.
        points: (N, 2), x, y.
        point_labels: (N,), 1 object, 0 background; None: all object.
        region: (H, W), like `mask`.
        generator: from `load_generator`; None loads the default one, every time.
        epsilon: largest change inside the region, in 8-bit levels (times 257 for uint16).
        epsilon_bg: largest change outside; None: 2, or 0 where the generator is a pattern.
        key: a secret on which the noise depends, so that who has the program cannot compute it
            (docs/METHOD.md, "Keyed noise"): 16 bytes or more; or the name of a file that holds
            them, or `env:NAME`. The same key and picture give the same noise, that of
            `unseg protect --key`. Several boxes then are one prompt.

    Raises:
        UserError: a type, size or coordinate that does not fit; no key where one is said to be.

    Example:
        >>> import numpy as np
        >>> import unseg
        >>> photo = np.full((40, 60, 3), 128, np.uint8)
        >>> result = unseg.protect(photo, boxes=[20, 10, 49, 29])
        >>> result.image.shape, result.image.dtype
        ((40, 60, 3), dtype('uint8'))
        >>> change, inside = abs(result.noise), result.region
        >>> int(change[inside].max()), int(change[~inside].max())
        (8, 2)
    """
    picture = _as_picture(image)
    generator = load_generator() if generator is None else generator
    epsilon_bg = budget_outside(epsilon_bg, generator)
    if not 0 <= epsilon_bg <= epsilon <= 255:
        raise UserError(
            f"epsilon={epsilon}, epsilon_bg={epsilon_bg}: need 0 <= epsilon_bg <= epsilon <= 255"
        )
    if point_labels is not None and points is None:
        raise UserError("point_labels were given without points")
    mask, region = _as_mask(mask, "mask"), _as_mask(region, "region")
    if boxes is not None:
        boxes = checked_boxes(boxes, *picture.size)
    if points is not None:
        points, point_labels = checked_points(points, point_labels, *picture.size)
    found = region_from_prompt(
        picture.rgb8(),
        region=region,
        mask=mask,
        boxes=boxes,
        point_coords=points,
        point_labels=point_labels,
    )
    device = next(generator.parameters()).device
    secret = load_key(key)
    prompted = boxes if secret is None or boxes is None else union_box(boxes)[None]
    noise = _noise(generator, device, picture, mask, prompted, points, point_labels)
    method = UnSeg(
        MethodOptions(
            epsilon=epsilon,
            epsilon_bg=epsilon_bg,
            carrier=str(generator.noise_carrier),
            key=secret,
        )
    )
    with torch.inference_mode():
        pixels = protected_pixels(
            picture, key="image", region=found.mask, method=method, noise=noise, device=device
        )
    budget = {"epsilon": epsilon, "epsilon_bg": epsilon_bg}
    report = measure(picture.pixels, pixels, found.mask).as_dict()
    result = _like(picture.with_pixels(pixels), image)
    return Protected(
        image=result,
        noise=result.astype(np.int32) - image.astype(np.int32),
        region=found.mask,
        report={**report, "region_source": found.source, **budget},
    )


def load_key(key: NoiseKey | bytes | str | Path | None) -> NoiseKey | None:
    """The key of `protect`, read once for many pictures.

    Raises:
        UserError: there is none, or it is too short; the message does not show it.
    """
    if key is None or isinstance(key, NoiseKey):
        return key
    if isinstance(key, bytes):
        return NoiseKey.of(key, name="key")
    if isinstance(key, str | Path):
        return NoiseKey.read(str(key), name="key")
    raise UserError(f"key is {type(key).__name__}; give bytes, the name of a file, or env:NAME")


def _noise(
    generator: Any,
    device: torch.device,
    picture: Picture,
    mask: np.ndarray | None,
    boxes: np.ndarray | None,
    points: np.ndarray | None,
    labels: Any,
) -> torch.Tensor:
    """Unit noise of all prompts together; several boxes are prompts of their own."""

    def prompt(box: np.ndarray | None) -> PromptedImage:
        prompts = model_prompts(
            picture.size,
            image_size=generator.image_size,
            mask_size=generator.noise_size,
            mask=mask,
            boxes=box,
            point_coords=points,
            point_labels=labels,
        )
        return PromptedImage(picture.pixels, prompts)

    maker = NoiseMaker(generator, device=device, precision="float32", batch_size=1)
    if boxes is None or len(boxes) == 1:
        return maker.of_one_image([prompt(boxes)])
    noises = maker.of_one_image([prompt(box) for box in (union_box(boxes), *boxes)])
    areas = [region_from_prompt(picture.rgb8(), boxes=box).mask for box in boxes]
    masks = [torch.from_numpy(area).to(device) for area in areas]
    return full_size_noise(noises, masks, size=picture.size, enlarge=maker.carrier.enlarge)


def _as_picture(image: np.ndarray) -> Picture:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        found = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"image is {found}; give a NumPy array of uint8 (0 to 255) or uint16 (0 to 65535): "
            "floats do not say their range"
        )
    if image.ndim not in (2, 3) or image.size == 0 or (image.ndim == 3 and image.shape[2] > 4):
        raise UserError(
            f"image has the shape {image.shape}; give (H, W) or (H, W, C) with 1 to 4 channels last"
        )
    pixels = image[:, :, None] if image.ndim == 2 else image
    has_alpha = pixels.shape[2] in (2, 4)
    return Picture(
        pixels=np.ascontiguousarray(pixels[:, :, :-1] if has_alpha else pixels),
        alpha=np.ascontiguousarray(pixels[:, :, -1]) if has_alpha else None,
    )


def _like(picture: Picture, image: np.ndarray) -> np.ndarray:
    """The picture in the shape of the input array."""
    return picture.stacked().reshape(image.shape)


def _as_mask(mask: Any, name: str) -> np.ndarray | None:
    """(H, W) bool; {0, 1} and {0, 255} are both understood, by looking."""
    if mask is None:
        return None
    values = np.asarray(mask)
    if values.ndim != 2:
        raise UserError(f"{name} has the shape {values.shape}; give (H, W)")
    return object_of(values)
