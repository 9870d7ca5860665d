"""What a run came to: counts, worst budgets, a table, a picture to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unseg.io.encode import encode_picture
from unseg.io.files import atomic_write_bytes
from unseg.io.pictures import Picture, read_picture
from unseg.protection.writing.manifest import FAILED, PROTECTED, UNPROTECTED, json_bytes
from unseg.protection.writing.other_files import count_other_files
from unseg.protection.writing.output_paths import CONTACT_SHEET
from unseg.protection.writing.writer import amplified
from unseg.utils.errors import UserError

SUMMARY = "summary.json"
_FAILURES_SHOWN = 20
_TILE = 192


@dataclass
class Summary:
    """Figures over the images of a list, each counted once.

    Attributes:
        folder: the output folder.
        total: images in the list.
        counts: images by status.
        beside: files that are no image of the list, by what they are.
        kept: how many of them an earlier run had finished.
        linf_inside: largest change inside a region over all files, in 8-bit levels.
        linf_outside: the same outside.
        psnr_mean: mean over the protected images, dB.
        psnr_min: smallest.
        rms_mean: mean change, in 8-bit levels.
        l2_mean: mean L2 norm of the change of values in [0, 1].
        region_share_mean: mean part of an image that is protected.
        failures: (key, reason) of the first ones that failed.
        wall_seconds: duration of this run.
    """

    folder: Path
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    linf_inside: float = 0.0
    linf_outside: float = 0.0
    psnr_mean: float | None = None
    psnr_min: float | None = None
    rms_mean: float | None = None
    l2_mean: float | None = None
    region_share_mean: float | None = None
    failures: list[tuple[str, str]] = field(default_factory=list)
    wall_seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Number of images that are neither protected nor copied."""
        return self.counts[FAILED]

    @property
    def exit_code(self) -> int:
        """0, or 1 if any image failed."""
        return 1 if self.failed else 0

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`."""
        speed = (self.total - self.kept) / self.wall_seconds if self.wall_seconds else None
        return {
            "total": self.total,
            PROTECTED: self.counts[PROTECTED],
            UNPROTECTED: self.counts[UNPROTECTED],
            FAILED: self.failed,
            "beside": dict(self.beside),
            "kept_from_earlier_runs": self.kept,
            "linf_inside_max": self.linf_inside,
            "linf_outside_max": self.linf_outside,
            "psnr_mean": self.psnr_mean,
            "psnr_min": self.psnr_min,
            "rms_mean": self.rms_mean,
            "l2_mean": self.l2_mean,
            "region_share_mean": self.region_share_mean,
            "wall_seconds": round(self.wall_seconds, 3),
            "images_per_second": round(speed, 3) if speed is not None else None,
            "failures": [{"key": key, "reason": reason} for key, reason in self.failures],
        }

    def table(self) -> str:
        """The closing table."""
        rows = [
            ("protected", str(self.counts[PROTECTED])),
            ("unprotected (copied)", str(self.counts[UNPROTECTED])),
            ("failed", str(self.failed)),
            ("kept from earlier runs", str(self.kept)),
        ]
        if self.counts["planned"]:
            rows = [
                ("would be written", str(self.counts["planned"])),
                ("missing", str(self.failed)),
            ]
        if self.counts[PROTECTED]:
            rows += [
                ("largest change inside", f"{self.linf_inside:g} levels"),
                ("largest change outside", f"{self.linf_outside:g} levels"),
                ("PSNR mean / lowest", f"{_shown(self.psnr_mean)} / {_shown(self.psnr_min)} dB"),
                ("mean RMS / L2", f"{_shown(self.rms_mean)} levels / {_shown(self.l2_mean)}"),
                ("mean region share", f"{100 * (self.region_share_mean or 0):.1f} %"),
            ]
        rows += [(what, str(count)) for what, count in sorted(self.beside.items())]
        rows.append(("seconds", f"{self.wall_seconds:.1f}"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{self.folder}: {self.total} images"]
        lines += [f"  {name:<{width}}  {value}" for name, value in rows]
        lines += [f"  failed: {reason}" for _, reason in self.failures]
        more = self.failed - len(self.failures)
        return "\n".join(
            [*lines, f"  ... and {more} more in manifest.jsonl"] if more > 0 else lines
        )


def summarise(
    folder: Path,
    entries: Iterable[Mapping[str, Any]],
    *,
    total: int,
    kept: int,
    seconds: float,
) -> Summary:
    """Figures of the entries of a list.

    Args:
        folder: the output folder.
        entries: the manifest entries of the list's images, one each.
        total: images in the list.
        kept: how many an earlier run had finished.
        seconds: duration of this run.
    """
    summary = Summary(folder=folder, total=total, kept=kept, wall_seconds=seconds)
    summary.beside = count_other_files(folder)
    sums: Counter[str] = Counter()
    for entry in entries:
        status = entry["status"]
        summary.counts[status] += 1
        if status == FAILED:
            if len(summary.failures) < _FAILURES_SHOWN:
                summary.failures.append((entry["key"], entry["reason"]))
        elif status == PROTECTED:
            _add(summary, sums, entry)
    count = summary.counts[PROTECTED]
    if count:
        summary.rms_mean = round(sums["rms"] / count, 5)
        # Entries of an older release have no norm.
        summary.l2_mean = round(sums["l2"] / count, 5) if sums["l2_count"] == count else None
        summary.region_share_mean = round(sums["region_share"] / count, 6)
    if sums["psnr_count"]:
        summary.psnr_mean = round(sums["psnr"] / sums["psnr_count"], 4)
    return summary


def write_summary(
    summary: Summary, *, settings: Mapping[str, Any], environment: Mapping[str, Any]
) -> None:
    """Write `summary.json`."""
    content = summary.as_dict() | {"settings": dict(settings), "environment": dict(environment)}
    atomic_write_bytes(summary.folder / SUMMARY, json_bytes(content, indent=1))


def write_contact_sheet(
    folder: Path, pairs: Sequence[tuple[Path, Path]], *, limit: float
) -> Path | None:
    """One picture with a row for each pair: clean, protected, amplified difference.

    Args:
        folder: where `contact_sheet.png` goes.
        pairs: (input file, output file).
        limit: change in levels that is shown as black or white.

    Returns:
        Its path, or None where no pair can be read.
    """
    rows = []
    for source, output in pairs:
        try:
            clean, protected = read_picture(source), read_picture(output)
        except UserError:
            continue
        if clean.pixels.shape == protected.pixels.shape:
            difference = amplified(clean.pixels, protected.pixels, limit=limit)
            grey = difference if difference.shape[2] == 3 else np.repeat(difference, 3, axis=2)
            tiles = [_tile(p) for p in (clean.rgb8(), protected.rgb8(), grey)]
            rows.append(np.concatenate(tiles, axis=1))
    if not rows:
        return None
    path = folder / CONTACT_SHEET
    atomic_write_bytes(path, encode_picture(Picture(pixels=np.concatenate(rows)), "PNG"))
    return path


def _tile(pixels: np.ndarray) -> np.ndarray:
    """The picture in a white square of fixed side, ratio kept."""
    height, width = pixels.shape[:2]
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Nearest, so that the noise is shown as it is and not averaged away.
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)
    tile = np.full((_TILE, _TILE, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile


def _add(summary: Summary, sums: Counter[str], entry: Mapping[str, Any]) -> None:
    summary.linf_inside = max(summary.linf_inside, entry["linf_inside"])
    summary.linf_outside = max(summary.linf_outside, entry["linf_outside"])
    sums["rms"] += entry["rms"]
    sums["region_share"] += entry["region_share"]
    if "l2" in entry:
        sums["l2"] += entry["l2"]
        sums["l2_count"] += 1
    psnr = entry["psnr"]
    if psnr is not None:
        sums["psnr"] += psnr
        sums["psnr_count"] += 1
        known = summary.psnr_min
        summary.psnr_min = psnr if known is None else min(known, psnr)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
