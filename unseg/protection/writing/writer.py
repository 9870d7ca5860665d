"""Writing one protected picture, reading it back from the disk, and measuring what it changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from unseg.io.decode import PixelRows
from unseg.io.encode import encode_picture
from unseg.io.files import FileContent, atomic_write_bytes, make_folder, read_file
from unseg.io.pictures import OutputFormat, Picture, read_back
from unseg.protection.methods import strips
from unseg.protection.reading.item import Subject
from unseg.protection.writing.budget_check import keeps_budget, measure
from unseg.protection.writing.manifest import PROTECTED, UNPROTECTED
from unseg.utils.errors import UserError


@dataclass
class WriteJob:
    """One picture to be written.

    Attributes:
        subject: the clean picture and its region.
        pixels: (H, W, C) protected pixels, or None where nothing is protected. They are let go
            once they are encoded.
        input_sha256: SHA-256 of the input file.
        path: where the output goes.
        output: the same, relative to the output folder, POSIX.
        format: of the bytes.
        quality: of JPEG.
        bounds: budget to hold (inside, outside) in 8-bit levels; None: measured only.
        original: the input file, where nothing is protected; a JPEG is copied as it is.
        noise_path: where the amplified noise goes, or None.
    """

    subject: Subject
    pixels: np.ndarray | None
    input_sha256: str
    path: Path
    output: str
    format: OutputFormat
    quality: int
    bounds: tuple[float, float] | None
    original: FileContent | None = None
    noise_path: Path | None = None
    is_protected: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_protected = self.pixels is not None


def write_protected(job: WriteJob) -> dict[str, Any]:
    """Write the picture, read it again, and return its manifest entry (without `seconds`).

    Raises:
        UserError: it cannot be written, or the file on the disk breaks the budget (then it is
            removed: a file under its final name is good).
    """
    subject = job.subject
    clean = subject.picture
    notes = list(subject.notes)
    make_folder(job.path.parent)
    # A picture without alpha and without 16 bits is all that JPEG can hold.
    if job.format == "JPEG" and (clean.alpha is not None or clean.max_value > 255):
        what = "transparency" if clean.alpha is not None else "16 bits a channel"
        raise UserError(f"{subject.key}: has {what}, which JPEG cannot hold; set output.format=png")
    atomic_write_bytes(job.path, _encoded(job))
    shown = None
    try:
        file = read_file(job.path)
        with read_back(file) as written:
            measured = _measured(job, written)
            if job.noise_path is not None:
                shown = _shown_noise(job, written)
    except Exception:
        job.path.unlink(missing_ok=True)
        raise
    if shown is not None:
        _write_noise(job, shown)
    entry: dict[str, Any] = {
        "key": subject.key,
        "status": PROTECTED if job.is_protected else UNPROTECTED,
        "output": job.output,
        "height": clean.size[0],
        "width": clean.size[1],
        "mode": clean.mode,
        **measured.as_dict(),
        "budget": list(job.bounds) if job.bounds is not None else None,
        "prompt": subject.prompt_kind if job.is_protected else None,
        "num_prompts": len(subject.instances) or len(subject.prompts),
        "region": subject.region_source,
        "input_sha256": job.input_sha256,
        "output_sha256": file.sha256,
    }
    if subject.label_sha256 is not None:
        entry["label_sha256"] = subject.label_sha256
    if notes:
        entry["notes"] = notes
    return entry


def _encoded(job: WriteJob) -> bytes:
    """The bytes of the file; the job's pixels are gone then."""
    clean, pixels = job.subject.picture, job.pixels
    job.pixels = None
    if pixels is None:
        if job.original is not None and _may_copy_bytes(job):
            return job.original.data
        return encode_picture(clean, job.format, quality=job.quality)
    if job.format == "PNG" and pixels.shape[2] == 3 and clean.alpha is None:
        # The encoder wants blue first: turned round where they lie, they need no second picture.
        for first, last in strips(*clean.size, device=torch.device("cpu")):
            pixels[first:last] = cv2.cvtColor(pixels[first:last], cv2.COLOR_RGB2BGR)
        pixels = pixels[:, :, ::-1]
    return encode_picture(clean.with_pixels(pixels), job.format, quality=job.quality)


def amplified(clean: np.ndarray, protected: np.ndarray, *, limit: float) -> np.ndarray:
    """A picture of the difference: grey is none, black and white are the budget.

    Args:
        clean: (H, W, C) uint8 or uint16.
        protected: the same.
        limit: change in 8-bit levels that is shown as black or white.

    Returns:
        (H, W, C) uint8.
    """
    scale = int(np.iinfo(clean.dtype).max) // 255
    change = protected.astype(np.float32) - clean.astype(np.float32)
    shown = 128 + change * (127 / max(limit * scale, 1))
    return np.clip(np.round(shown), 0, 255).astype(np.uint8)


def _measured(job: WriteJob, written: np.ndarray | PixelRows) -> Any:
    clean = job.subject.picture.pixels
    if (written.shape, written.dtype) != (clean.shape, clean.dtype):
        raise UserError(
            f"{job.path}: reads back as {written.dtype} {written.shape} instead of "
            f"{clean.dtype} {clean.shape}; set output.format=png"
        )
    measured = measure(clean, written, job.subject.region)
    bounds = job.bounds if job.is_protected else (0.0, 0.0)
    if bounds is not None and job.format != "JPEG" and not keeps_budget(measured, bounds):
        raise UserError(
            f"{job.path}: the written file changes pixels by {measured.linf_inside:g} inside and "
            f"{measured.linf_outside:g} outside, more than {bounds[0]:g} and {bounds[1]:g}; it was "
            "removed. Please report this"
        )
    return measured


def _may_copy_bytes(job: WriteJob) -> bool:
    """Whether an unprotected image can be copied as it is: encoding JPEG again would change it."""
    clean = job.subject.picture
    return job.format == "JPEG" and clean.file_format == "JPEG" and clean.orientation == 1


def _shown_noise(job: WriteJob, written: np.ndarray | PixelRows) -> np.ndarray:
    clean = job.subject.picture
    limit = job.bounds[0] if job.bounds is not None else 8
    shown = np.empty(clean.pixels.shape, np.uint8)
    for first, last in strips(*clean.size, device=torch.device("cpu")):
        rows = slice(first, last)
        shown[rows] = amplified(clean.pixels[rows], written[rows], limit=limit)
    return shown


def _write_noise(job: WriteJob, shown: np.ndarray) -> None:
    assert job.noise_path is not None
    make_folder(job.noise_path.parent)
    picture = Picture(pixels=shown)
    picture = replace(picture, mode="L" if picture.is_grey else "RGB")
    atomic_write_bytes(job.noise_path, encode_picture(picture, "PNG"))
