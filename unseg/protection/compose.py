"""From a decoded picture and a method to the pixels that are written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unseg.io.pictures import Picture
from unseg.protection.methods import Canvas, Method, strips
from unseg.protection.noise_maker import level_tensor
from unseg.protection.writing.budget_check import limits
from unseg.types import VOID_CLASS


def protected_pixels(
    picture: Picture,
    *,
    key: str,
    region: np.ndarray,
    method: Method,
    noise: Tensor | None,
    device: torch.device,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels of the protected picture, shape and type of `picture.pixels`.

    The difference is rounded to whole levels and then clamped to the budget rounded down, so that
    a budget holds exactly in the file; colour under alpha 0 stays as it is. Where the method allows
    it, the picture is made in strips, so that memory beside the result does not grow with it.

    Args:
        picture: the clean picture.
        key: its name; randomness derives from it.
        region: (H, W) bool.
        method: makes the unrounded image.
        noise: (1, 3, n, n) on `device`, or None.
        device: where the arithmetic happens.
        classes: (H, W) int32 class of each pixel, for methods that go by classes.
    """
    height, width = picture.size
    result = np.empty_like(picture.pixels)
    whole = ((0, height),)
    channels = result.shape[2]
    secret = method.options.key if method.takes_key else None
    key = key if secret is None else secret.picture(picture.pixels)
    noise = method.shared_noise(key, noise, size=picture.size, channels=channels)
    for first, last in strips(height, width, device=device) if method.by_rows else whole:
        rows = slice(first, last)
        strip = replace(
            picture,
            pixels=picture.pixels[rows],
            alpha=None if picture.alpha is None else picture.alpha[rows],
        )
        result[rows] = _protected_strip(
            strip,
            key=key,
            region=region[rows],
            method=method,
            noise=noise,
            device=device,
            classes=None if classes is None else classes[rows],
            place=(first, height),
        )
    return result


def _protected_strip(
    picture: Picture,
    *,
    key: str,
    region: np.ndarray,
    method: Method,
    noise: Tensor | None,
    device: torch.device,
    classes: np.ndarray | None,
    place: tuple[int, int],
) -> np.ndarray:
    """The same of a strip; `place` is its first row in the whole picture, and that one's height."""
    top = picture.max_value
    levels = level_tensor(picture.pixels, device)
    inside = torch.from_numpy(np.array(region)).to(device)[None, None]
    canvas = Canvas(
        key=key,
        image=levels / top,
        region=inside.float(),
        noise=noise,
        classes=None if classes is None else _visible_classes(classes, picture).to(device),
        start=place[0],
        height=place[1],
    )
    change = torch.round(method(canvas) * top) - levels
    if method.bounds is not None:
        limit_in, limit_out = limits(method.bounds, top)
        limit = torch.where(inside, float(limit_in), float(limit_out))
        change = torch.minimum(torch.maximum(change, -limit), limit)
    if picture.alpha is not None:
        visible = torch.from_numpy(picture.alpha != 0).to(device)
        change = change * visible
    changed = (levels + change).clamp(0, top)[0].permute(1, 2, 0)
    if top == 255:
        return changed.to(torch.uint8).contiguous().cpu().numpy()
    return changed.to(torch.int32).cpu().numpy().astype(np.uint16)


def _visible_classes(classes: np.ndarray, picture: Picture) -> Tensor:
    """(1, 1, H, W) classes; pixels that nobody sees have none."""
    if picture.alpha is not None:
        classes = np.where(picture.alpha != 0, classes, VOID_CLASS)
    return torch.from_numpy(np.ascontiguousarray(classes))[None, None]
