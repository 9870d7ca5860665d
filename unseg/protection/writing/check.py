"""Measuring a finished set again, without trusting its manifest, and what JPEG leaves of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unseg.data.annotations.tree import scan_images
from unseg.io.encode import encode_picture
from unseg.io.files import FileContent, path_below, read_file, resolve_inside
from unseg.io.pictures import Picture, read_picture
from unseg.io.suffixes import FORMAT_SUFFIXES
from unseg.protection.writing.manifest import FAILED, manifest_files, read_manifest
from unseg.utils.errors import UserError

QUALITIES = (95, 75, 50)
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Survival:
    """What one JPEG quality leaves of the noise, over all values of an image.

    Attributes:
        correlation: of the noise with what the decoded JPEG differs from the clean image.
        rms: of that difference, in 8-bit levels (the codec's own error included).
        kept: part of the noise's amplitude still in it: the regression slope of the difference
            on the noise, 1 where all survives.
        linf: largest difference, in levels.
    """

    correlation: float
    rms: float
    kept: float
    linf: float


@dataclass
class Checked:
    """What was found over a set.

    Attributes:
        count: pairs measured.
        linf: largest change of any pixel, in 8-bit levels.
        rms: mean over images of the root mean square change.
        l2: mean over images of the L2 norm of the change of values in [0, 1].
        psnr_mean: mean PSNR of the images that changed, dB.
        psnr_min: lowest PSNR, dB.
        faults: one line for each file that is missing, changed or beyond its budget.
        survival: means by JPEG quality.
    """

    count: int = 0
    linf: float = 0.0
    rms: float = 0.0
    l2: float = 0.0
    psnr_mean: float | None = None
    psnr_min: float | None = None
    faults: list[str] = field(default_factory=list)
    survival: dict[int, Survival] = field(default_factory=dict)

    def table(self) -> str:
        """For people."""
        psnr = "-" if self.psnr_min is None else f"{self.psnr_mean:.2f} / {self.psnr_min:.2f} dB"
        lines = [
            f"{self.count} image{'s' * (self.count != 1)}: largest change {self.linf:g} levels, "
            f"mean RMS {self.rms:.3f}, mean L2 {self.l2:.3f}, mean / lowest PSNR {psnr}"
        ]
        if self.survival:
            lines.append("  JPEG  correlation  amplitude kept  RMS of change  largest change")
        for quality, one in self.survival.items():
            lines.append(
                f"  {quality:>4}  {one.correlation:11.3f}  {one.kept:14.3f}  {one.rms:13.3f}  "
                f"{one.linf:14.1f}"
            )
        lines += [f"  FAULT {fault}" for fault in self.faults]
        return "\n".join(lines)


def check_set(
    folder: Path,
    clean: Path,
    *,
    qualities: tuple[int, ...] = QUALITIES,
    limit: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Checked:
    """Compare a protected set with its clean images.

    With a manifest every image is compared with its entry: checksum, largest change, and that no
    more pixels change by more than the outer budget than the region holds. Without one, images
    of the same tree and stem are paired and only measured.

    Args:
        folder: the protected set.
        clean: the clean images' folder, or the clean data set of a mirrored one.
        qualities: JPEG qualities to try; () for none.
        limit: only the first images.
        on_image: called before each image.

    Raises:
        UserError: there is nothing to compare.
    """
    result = Checked()
    psnrs: list[float] = []
    rows: dict[int, list[Survival]] = {quality: [] for quality in qualities}
    for source, output, entry in pairs_of(folder, clean, result):
        if limit is not None and result.count >= limit:
            break
        on_image()
        try:
            file = read_file(output)
            if entry is not None and file.sha256 != entry["output_sha256"]:
                fault = "is not the file that was written (SHA-256 differs)"
                result.faults.append(f"{output}: {fault}")
            before, after = read_picture(source), read_picture(file)
            noise = _noise(before, after, output)
        except UserError as error:
            result.faults.append(str(error))
            continue
        psnr = _add(result, noise, entry, output)
        psnrs += [] if psnr is None else [psnr]
        for quality in qualities:
            if before.max_value == 255 and noise.any():
                rows[quality].append(survival(before, after, quality=quality))
    if not result.count and not result.faults:
        raise UserError(f"{folder}: no picture has a clean counterpart in {clean}")
    result.rms /= max(result.count, 1)
    result.l2 /= max(result.count, 1)
    result.psnr_mean = float(np.mean(psnrs)) if psnrs else None
    result.survival = {q: _mean(found) for q, found in rows.items() if found}
    return result


def survival(clean: Picture, protected: Picture, *, quality: int) -> Survival:
    """What is left of the noise after one JPEG compression of the protected image."""
    opaque = Picture(pixels=protected.pixels)
    coded = read_picture(
        FileContent(Path("a.jpg"), encode_picture(opaque, "JPEG", quality=quality))
    )
    noise = protected.pixels.astype(np.float64) - clean.pixels
    left = coded.pixels.astype(np.float64) - clean.pixels
    energy = float((noise * noise).sum())
    together = float((noise * left).sum())
    centred = [v - v.mean() for v in (noise, left)]
    norm = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return Survival(
        correlation=float((centred[0] * centred[1]).sum()) / norm if norm else 0.0,
        rms=math.sqrt(float((left * left).mean())),
        kept=together / energy if energy else 0.0,
        linf=float(np.abs(left).max()),
    )


def pairs_of(
    folder: Path, clean: Path, result: Checked
) -> Iterator[tuple[Path, Path, Mapping[str, Any] | None]]:
    """(clean file, protected file, manifest entry or None) of a protected set.

    By its manifest, else by tree and stem; entries without a file become faults of `result`.
    """
    if manifest_files(folder):
        return _from_manifest(folder, clean, result)
    return _by_stem(folder, clean, result)


def _from_manifest(
    folder: Path, clean: Path, result: Checked
) -> Iterator[tuple[Path, Path, Mapping[str, Any] | None]]:
    for entry in read_manifest(folder):
        if entry["status"] == FAILED:
            result.faults.append(f"{entry['key']}: not protected: {entry['reason']}")
            continue
        output = resolve_inside(folder, entry["output"])
        # A mirrored set is compared with a whole data set, whose images lie deeper.
        base = PurePosixPath(entry["output"]).parent
        source = path_below(clean, entry["key"])  # the links in it are its owner's
        if not source.is_file():
            source = path_below(clean, (base / PurePosixPath(entry["key"]).name).as_posix())
        if output.is_file():
            yield source, output, entry
        else:
            result.faults.append(f"{output}: missing")


def _by_stem(
    folder: Path, clean: Path, result: Checked
) -> Iterator[tuple[Path, Path, Mapping[str, Any] | None]]:
    if not clean.is_dir():
        raise UserError(f"{clean}: no such folder")
    originals = {PurePosixPath(k).with_suffix(""): k for k in scan_images(clean)}
    for name in scan_images(folder):
        key = originals.get(PurePosixPath(name).with_suffix(""))
        if key is not None:
            yield clean / key, folder / name, None


def _noise(before: Picture, after: Picture, output: Path) -> np.ndarray:
    """(H, W, C) change in 8-bit levels."""
    if before.pixels.shape != after.pixels.shape or before.max_value != after.max_value:
        raise UserError(
            f"{output}: is {after.pixels.dtype} {after.pixels.shape}, its clean image "
            f"{before.pixels.dtype} {before.pixels.shape}"
        )
    scale = before.max_value // 255
    return (after.pixels.astype(np.float64) - before.pixels) / scale


def _add(
    result: Checked, noise: np.ndarray, entry: Mapping[str, Any] | None, output: Path
) -> float | None:
    """Count one image in; returns its PSNR, None where nothing changed."""
    largest = np.abs(noise).max(axis=2)
    linf = float(largest.max(initial=0))
    rms = math.sqrt(float((noise * noise).mean()))
    result.count += 1
    result.linf = max(result.linf, linf)
    result.rms += rms
    result.l2 += rms * math.sqrt(noise.size) / 255
    psnr = 20 * math.log10(255 / rms) if rms else None
    if psnr is not None:
        result.psnr_min = psnr if result.psnr_min is None else min(result.psnr_min, psnr)
    if entry is not None:
        _compare(result, largest, entry, output)
    return psnr


def _compare(result: Checked, largest: np.ndarray, entry: Mapping[str, Any], output: Path) -> None:
    """Faults of an image whose entry says something else, or that breaks its budget."""
    linf = float(largest.max(initial=0))
    claimed = max(entry["linf_inside"], entry["linf_outside"])
    if abs(linf - claimed) > _TOLERANCE:
        result.faults.append(f"{output}: changes by {linf:g} levels, its manifest says {claimed:g}")
    budget = entry.get("budget")
    is_lossless = output.suffix.lower() not in FORMAT_SUFFIXES["JPEG"]
    if not budget or not is_lossless or entry["status"] != "protected":
        return
    if linf > max(budget) + _TOLERANCE:
        result.faults.append(f"{output}: changes by {linf:g} levels, its budget is {max(budget):g}")
    loud = float((largest > budget[1] + _TOLERANCE).mean())
    if loud > entry["region_share"] + 1e-5:
        result.faults.append(
            f"{output}: {100 * loud:.2f} % of its pixels change by more than {budget[1]:g} levels, "
            f"its region is only {100 * entry['region_share']:.2f} %"
        )


def _mean(found: list[Survival]) -> Survival:
    return Survival(
        correlation=float(np.mean([f.correlation for f in found])),
        rms=float(np.mean([f.rms for f in found])),
        kept=float(np.mean([f.kept for f in found])),
        linf=max(f.linf for f in found),
    )
