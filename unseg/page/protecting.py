"""What the page does with a picture, without the page: views, live figures, files.

Files come from `protect.generate`, the same function that `unseg protect` calls, so both give the
same bytes for the same marks. Live figures come from a reduced picture and the same noise.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.io.encode import png_bytes
from unseg.io.files import link_or_copy
from unseg.io.pictures import Picture, read_picture
from unseg.page.marks import MarkedPictures, Marks, marked_region
from unseg.page.session import Session, Upload, reduced
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import MethodOptions, NoiseKey, UnSeg, full_size_noise
from unseg.protection.noise_maker import NoiseMaker, PromptedImage
from unseg.protection.reading.item import ModelFrame, SubjectReader
from unseg.protection.reading.region import Region
from unseg.protection.run import generate
from unseg.protection.writing.budget_check import measure
from unseg.protection.writing.manifest import FAILED, MANIFEST, PROTECTED, read_manifest
from unseg.protection.writing.writer import amplified
from unseg.utils.errors import UserError

VIEW_SIDE = 1280
"""Longer side, in pixels, of pictures shown on the page."""

WHAT_IT_DOES_NOT_DO = (
    "It does not stop models that exist already from segmenting the picture, simple textures and "
    "very small objects are protected weakly, and a trainer who has about 20 % clean pictures wins "
    "back most of the loss. Saving the result as JPEG or WebP removes a part of the noise, turning "
    "it grey may remove all of it, and without a secret whoever has this generator and a mask can "
    "compute it again."
)

_README = f"""Pictures protected with UnSeg (unlearnable examples for segmentation).

Keep them as they are: they are written without loss. manifest.jsonl holds what was measured in each
file: the largest change inside and outside of the region, PSNR, SHA-256.

{WHAT_IT_DOES_NOT_DO}
"""


@dataclass(frozen=True)
class Live:
    """A reduced picture with its noise, from which figures for any strength follow quickly.

    Attributes:
        marks: on which it depends.
        picture: reduced to `VIEW_SIDE`.
        region: (h, w) bool.
        noise: (1, 3, n, n), or (1, 3, h, w) where objects have their own, CPU.
        union: (1, 3, n, n) of all objects together, which a key takes.
        is_reduced: whether figures are estimates.
    """

    marks: Marks
    picture: Picture
    region: np.ndarray
    noise: Tensor
    union: Tensor
    is_reduced: bool


class Protector:
    """The generator and what the page does with it. Calls are not thread safe: queue them.

    Args:
        generator: from `unseg.load_generator`.
        device: where it runs.
    """

    def __init__(self, generator: Any, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self._maker = NoiseMaker(generator, device=device, batch_size=1)
        self._frame = ModelFrame(image_size=generator.image_size, mask_size=generator.noise_size)

    def psnr(
        self, upload: Upload, *, epsilon: float, epsilon_bg: float, key: NoiseKey | None = None
    ) -> tuple[float | None, bool]:
        """PSNR in dB at a strength (None where nothing changes), and whether it is estimated.

        The forward pass runs once for every picture and its marks.
        """
        _check_strength(epsilon, epsilon_bg)
        live = upload.cached
        if live is None or live.marks != upload.marks:
            live = upload.cached = self._live(upload)
        pixels = protected_pixels(
            live.picture,
            key=upload.key,
            region=live.region,
            method=UnSeg(
                MethodOptions(
                    epsilon=epsilon,
                    epsilon_bg=epsilon_bg,
                    carrier=str(self._maker.carrier),
                    key=key,
                )
            ),
            noise=live.noise if key is None else live.union,
            device=torch.device("cpu"),
        )
        return measure(live.picture.pixels, pixels, live.region).psnr, live.is_reduced

    def protect(
        self,
        session: Session,
        uploads: Sequence[Upload],
        *,
        epsilon: float,
        epsilon_bg: float,
        key: NoiseKey | None = None,
        on_entry: Callable[[dict[str, Any]], None] | None = None,
    ) -> list[str]:
        """Write the protected files and their manifest entries; returns what failed, a line each.

        Args:
            session: of the window; its output folder takes the files.
            uploads: pictures of it.
            epsilon: largest change inside the region, in 8-bit levels.
            epsilon_bg: largest change outside.
            key: of the noise; no file holds it.
            on_entry: also called after every picture.
        """
        _check_strength(epsilon, epsilon_bg)
        config = load_config(
            GenerateConfig,
            None,
            [
                "data.format=folder",
                "data.root=.",
                f"data.max_pixels={session.limits.max_pixels}",
                f"output.dir={json.dumps(str(session.output))}",
                f"noise.epsilon={epsilon}",
                f"noise.epsilon_bg={epsilon_bg}",
                f"run.device={self.device}",
                "run.restart=true",
            ],
        )
        entries: dict[str, dict[str, Any]] = {}

        def take(entry: dict[str, Any]) -> None:
            entries[entry["key"]] = entry
            if on_entry is not None:
                on_entry(entry)

        source = MarkedPictures([(upload.item, upload.marks) for upload in uploads])
        generate(
            config, source=source, folders=[], generator=self.generator, key=key, on_entry=take
        )
        faults = []
        for upload in uploads:
            entry = entries[upload.key]
            is_done = entry["status"] != FAILED
            upload.entry = entry if is_done else None
            upload.output = session.output / entry["output"] if is_done else None
            if not is_done:
                faults.append(entry["reason"].replace(str(upload.path), upload.key))
        return faults

    @torch.inference_mode()
    def _live(self, upload: Upload) -> Live:
        reader = SubjectReader(
            source=MarkedPictures([(upload.item, upload.marks)]), frame=self._frame
        )
        subject = reader.read(upload.item)
        rows = [PromptedImage(subject.picture.pixels, prompts) for prompts in subject.prompts]
        noises = self._maker.of_one_image(rows)
        small = small_picture(subject.picture)
        region = _small_mask(subject.region, small.size)
        noise = union = noises[:1].cpu()
        if subject.instances:
            masks = [torch.from_numpy(_small_mask(m, small.size)) for m in subject.instances]
            noise = full_size_noise(
                noises.cpu(), masks, size=small.size, enlarge=self._maker.carrier.enlarge
            )
        return Live(
            marks=upload.marks,
            picture=small,
            region=region,
            noise=noise,
            union=union,
            is_reduced=small.size != subject.picture.size,
        )


def small_picture(picture: Picture) -> Picture:
    """The picture reduced to `VIEW_SIDE`, of the same type."""
    pixels = reduced(picture.pixels, VIEW_SIDE, interpolation=cv2.INTER_AREA)
    alpha = picture.alpha
    if alpha is not None:
        alpha = reduced(alpha, VIEW_SIDE, interpolation=cv2.INTER_NEAREST)
    return Picture(pixels=pixels, alpha=alpha)


def view_uri(picture: Picture) -> str:
    """The picture as a browser shows it: reduced, 8 bits, a `data:` address."""
    small = small_picture(picture)
    shown = small.rgb8()
    if small.alpha is not None:
        alpha = small.alpha if small.max_value == 255 else (small.alpha // 257).astype(np.uint8)
        shown = np.concatenate([shown, alpha[..., None]], axis=2)
    return data_uri(shown, icc=picture.icc if not picture.is_grey else None)


def mask_uri(region: Region) -> str:
    """The mask as a tinted layer to lay over the picture, with an outline; a `data:` address."""
    mask = reduced(region.mask.astype(np.uint8), VIEW_SIDE, interpolation=cv2.INTER_NEAREST)
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask == 1] = (37, 99, 235, 90)
    width = max(3, round(max(mask.shape) / 300))
    kernel = np.ones((width, width), np.uint8)
    edge = cv2.morphologyEx(
        mask, cv2.MORPH_GRADIENT, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    layer[edge == 1] = (255, 255, 255, 230)
    return data_uri(layer)


def comparison(upload: Upload) -> dict[str, str]:
    """Views of a protected picture: `before`, `after` and `noise`, `data:` addresses.

    The noise is thinned out, not averaged, where the picture is large: averaging would hide it.
    """
    assert upload.output is not None
    assert upload.entry is not None
    clean, protected = read_picture(upload.path), read_picture(upload.output)
    limit = max(upload.entry["budget"])
    few = (
        reduced(one.pixels, VIEW_SIDE, interpolation=cv2.INTER_NEAREST)
        for one in (clean, protected)
    )
    noise = amplified(*few, limit=limit)
    noise = noise if noise.shape[2] == 3 else np.repeat(noise, 3, axis=2)
    return {
        "before": view_uri(clean),
        "after": view_uri(protected),
        "noise": data_uri(noise),
    }


def data_uri(pixels: np.ndarray, *, icc: bytes | None = None) -> str:
    """(H, W, C) uint8 pixels as a PNG in a `data:` address, so that no file is left behind."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels, icc=icc)).decode()


def region_of(upload: Upload) -> Region:
    """The region that a picture's marks stand for."""
    return marked_region(read_picture(upload.path), upload.marks)


def downloads(session: Session, upload: Upload | None) -> tuple[Path | None, Path | None]:
    """Files to download: the chosen picture's result, and a zip of all with their manifest."""
    done = [one for one in session.uploads.values() if one.output is not None]
    if not done:
        return None, None
    folder = session.download_folder()
    single = None
    if upload is not None and upload.output is not None:
        single = folder / upload.output.name
        link_or_copy(upload.output, single)
    archive = folder / "unseg-protected.zip"
    entries = {entry["key"]: entry for entry in read_manifest(session.output)}
    # PNGs are compressed already.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for one in done:
            assert one.output is not None
            target.write(one.output, one.output.relative_to(session.output).as_posix())
        lines = [json.dumps(entries[one.key], ensure_ascii=False) + "\n" for one in done]
        target.writestr(MANIFEST, "".join(lines))
        target.writestr("README.txt", _README)
    return single, archive


def describe_result(upload: Upload) -> str:
    """What was measured in the written file, for people."""
    entry = upload.entry
    if entry is None:
        return ""
    if entry["status"] != PROTECTED:
        return f"{upload.key}: copied, nothing to protect in it."
    inside, outside = entry["budget"]
    psnr = "-" if entry["psnr"] is None else f"{entry['psnr']:.2f} dB"
    return (
        f"{entry['output']}: {entry['width']} x {entry['height']} pixels, {upload.kind}. Measured "
        f"in the written file: PSNR {psnr}, changed by at most {entry['linf_inside']:g} of "
        f"{inside:g} levels inside and {entry['linf_outside']:g} of {outside:g} outside of the "
        f"mask ({100 * entry['region_share']:.1f} % of the picture)."
    )


def _check_strength(epsilon: float, epsilon_bg: float) -> None:
    if not 0 <= epsilon_bg <= epsilon <= 255:
        raise UserError(
            f"strength {epsilon:g} inside, {epsilon_bg:g} outside: outside must not exceed inside"
        )


def _small_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, nearest."""
    height, width = size
    values = mask.astype(np.uint8)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
