"""Peak memory of an evaluation's cell over sets of several sizes, at a fixed cache.

    python -m benchmarks.evaluation_memory 500 5000 20000
    python -m benchmarks.evaluation_memory 500 5000 --cache-mib 64 --workers 2

Each row trains a tiny victim for one epoch on so many generated pictures of 256 pixels a side, in a
process of its own, and tests it on 50. A count given again is measured again. The last line is the
largest peak over the smallest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

SIDE, CROP, NUM_TEST = 256, 64, 50


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a run fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("counts", nargs="+", type=int, metavar="COUNT", help="training pictures")
    parser.add_argument("--cache-mib", type=float, default=32, help="recipe.cache_gib, in MiB")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    given = parser.parse_args(argv)
    peaks = []
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for split, number in (("train", count), ("test", NUM_TEST)):
                write_pictures(root / split, number)
            config = write_grid(root, given.cache_mib, given.workers)
            start = time.monotonic()
            peak = peak_mib([sys.executable, "-m", "unseg.cli", "evaluate", str(config)])
            if peak is None:
                return 1
            peaks.append(peak)
            seconds = time.monotonic() - start
            print(f"{count} pictures: peak {peak:.0f} MiB, {seconds:.0f} s", flush=True)
    print(f"largest / smallest: {max(peaks) / min(peaks):.3f}")
    return 0


def write_pictures(folder: Path, count: int) -> None:
    """Bright squares on noise, each with its mask."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        y, x = rng.integers(0, SIDE // 2, 2)
        mask[y : y + SIDE // 2, x : x + SIDE // 2] = 255
        image = np.where(mask[..., None] > 0, 160, np.roll(ground, number, 0)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number:06}.jpg"), image)
        cv2.imwrite(str(folder / f"masks/{number:06}.png"), mask)


def write_grid(root: Path, cache_mib: float, workers: int) -> Path:
    """A grid of one clean cell."""
    parts = {
        split: {"format": "binary_mask", "root": str(root / split), "images": "images",
                "labels": "masks"}
        for split in ("train", "test")
    }  # fmt: skip
    recipe = {
        "image_size": SIDE, "crop": CROP, "epochs": 1, "batch_size": 32, "lr": 0.003,
        "cache_gib": cache_mib / 1024,
    }  # fmt: skip
    grid = {
        "run_dir": str(root / "run"), "device": "cpu", "num_threads": 1, "num_workers": workers,
        "data": {"squares": parts},
        "victims": {"unet": {"arch": "unet_plain", "tiny": True, "recipe": recipe}},
        "grid": [{"data": ["squares"], "methods": ["clean"], "victims": ["unet"]}],
    }  # fmt: skip
    path = root / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return path


def peak_mib(command: list[str]) -> float | None:
    """Peak resident memory of a command's own process in MiB, or None where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path(os.devnull).open("w") as nowhere:
        actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), number) for number in (1, 2)]
        child = os.posix_spawn(command[0], command, environment, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    if status:
        print(json.dumps({"command": command, "status": status}), file=sys.stderr)
        return None
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
