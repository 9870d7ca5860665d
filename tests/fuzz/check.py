"""Runs a set of cases and says what broke."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from tests.fuzz.child import MAX_PIXELS, SECONDS
from tests.fuzz.mutations import Case

EPSILON = 8
MEMORY = (300 << 20) + 60 * MAX_PIXELS
"""Bytes that protecting one picture may take beside the program."""


@dataclass
class Result:
    """What came of a set of cases.

    Attributes:
        counts: files by outcome.
        compared: protected files whose change was measured by other readers.
        reasons: failures by the beginning of their reason.
        costs: key -> (processor seconds, kilobytes at the peak).
        broken: what broke the invariant, a line each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    costs: dict[str, tuple[float, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Count another set in."""
        self.counts += other.counts
        self.compared += other.compared
        self.reasons += other.reasons
        self.costs |= other.costs
        self.broken += other.broken


def run_cases(cases: Iterable[Case], folder: Path) -> Result:
    """Protect the files of some cases in a child process, and judge what it left.

    Args:
        cases: distinct names.
        folder: an empty folder.
    """
    result = Result()
    root, out = folder / "in", folder / "out"
    root.mkdir()
    for case in cases:
        (root / case.name).write_bytes(case.data)
    while not _ran(root, out, result):
        pass
    _judge(root, out, result)
    return result


def _ran(root: Path, out: Path, result: Result) -> bool:
    """Whether the child came to its end; else the file that stopped it is taken away."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", str(root), str(out)],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    if child.returncode in (0, 1):
        return True
    parts = [json.loads(line)["key"] for line in _lines(out.glob("manifest*.jsonl"))]
    left = sorted(path.name for path in root.iterdir() if path.name not in set(parts))
    words = child.stderr.decode(errors="replace")[-1500:]
    result.broken.append(f"{left[:1]}: ended the run with code {child.returncode}: {words}")
    if not left or len(result.broken) > 20:
        return True
    (root / left[0]).unlink()
    return False


def _lines(paths: Iterable[Path]) -> list[bytes]:
    return [line for path in paths if path.is_file() for line in path.read_bytes().splitlines()]


def _judge(root: Path, out: Path, result: Result) -> None:
    entries = [json.loads(line) for line in _lines([out / "manifest.jsonl"])]
    others = [json.loads(line)["file"] for line in _lines([out / "other_files.jsonl"])]
    named = Counter([entry["key"] for entry in entries] + others)
    wrong = {p.name: named[p.name] for p in root.iterdir() if named[p.name] != 1}
    result.broken += [f"{name!r}: is named {count} times" for name, count in wrong.items()]
    result.counts["not a picture"] += len(others)
    for entry in entries:
        result.counts[entry["status"]] += 1
        if entry["status"] == "failed":
            reason = entry["reason"].removeprefix(f"{root}/{entry['key']}: ")
            result.reasons[reason[:60]] += 1
            if "unexpected" in entry["reason"]:
                result.broken.append(entry["reason"])
            if (out / entry["key"]).exists():
                result.broken.append(f"{entry['key']!r}: has failed, and there is a file")
        elif entry["status"] == "protected":
            _compare(root / entry["key"], out / entry["output"], result)
    for line in map(json.loads, _lines([out / "costs.jsonl"])):
        result.costs[line["key"]] = line["seconds"], line["kilobytes"]
        if line["seconds"] > SECONDS or line["kilobytes"] * 1024 > MEMORY:
            result.broken.append(f"{line['key']!r}: took {line}")


def _compare(source: Path, output: Path, result: Result) -> None:
    """Measure a written file by readers that are not the program's."""
    after = cv2.imdecode(np.frombuffer(output.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if after is None:
        result.broken.append(f"{source.name!r}: its output cannot be read")
        return
    try:
        before = _independent(source)
    except (OSError, ValueError, SyntaxError, KeyError, struct.error):
        return  # a broken EXIF block, or a tag of another kind: nobody can say
    if before is None:
        return
    after = after[:, :, None] if after.ndim == 2 else after
    if after.shape[2] >= 3:
        after = after[:, :, [2, 1, 0, *range(3, after.shape[2])]]
    if before.shape[:2] != after.shape[:2] or before.dtype != after.dtype:
        result.broken.append(f"{source.name!r}: {before.shape} has become {after.shape}")
        return
    result.compared += 1
    colours = before if before.shape[2] >= 3 else np.repeat(before[:, :, :1], 3, 2)
    change = np.abs(after[:, :, :3].astype(np.int64) - colours[:, :, :3])
    if change.max() > EPSILON * (257 if before.dtype == np.uint16 else 1):
        result.broken.append(f"{source.name!r}: changes by {change.max()}")
    if before.shape[2] in (2, 4) and (
        after.shape[2] != 4 or (after[:, :, 3] != before[:, :, -1]).any()
    ):
        result.broken.append(f"{source.name!r}: its transparency has changed")


def _independent(path: Path) -> np.ndarray | None:
    """(H, W, C) pixels by Pillow alone, upright; None where Pillow has fewer than the file."""
    # From memory: Pillow turns the size, not the pixels, of a TIFF that it maps from the disk.
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") or image.format == "PPM":
            return None
        bits = path.read_bytes()[24] if image.format == "PNG" else 8
        if image.format == "TIFF":
            bits = max(np.atleast_1d(image.tag_v2.get(258, 1)))
        if (bits == 16 and image.mode != "I;16") or (bits < 8 and "transparency" in image.info):
            return None
        image.load()  # by which Pillow turns a TIFF, and forgets its tag
        upright = ImageOps.exif_transpose(image)
        clear = image.info.get("transparency")
        if upright.mode == "I;16":
            values = np.asarray(upright)[:, :, None]
            if clear is None:
                return values
            return np.dstack([values, np.where(values == clear, 0, 65535)]).astype(np.uint16)
        if upright.mode in ("P", "RGB", "L") and clear is not None:
            upright = upright.convert("LA" if upright.mode == "L" else "RGBA")
        elif upright.mode in ("1", "P"):
            upright = upright.convert("L" if upright.mode == "1" else "RGB")
        values = np.asarray(upright)
    return values[:, :, None] if values.ndim == 2 else values
