"""Small data sets, a saturated tiny generator and configurations for the tests of generation."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from weight_cases import tiny_generator

from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.models import Generator
from unseg.models.weights import save_release
from unseg.protection.run import generate
from unseg.protection.writing.manifest import read_manifest
from unseg.protection.writing.summary import Summary

RECORDS = (
    "manifest", "summary.json", "run.json", "config.yaml", ".unseg.lock", "other_files.jsonl",
)  # fmt: skip


@functools.cache
def saturated_generator(seed: int = 0, image_size: int = 32) -> Generator:
    """A tiny generator whose noise is nearly all -1 or 1, like a trained one's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = tiny_generator(seed, image_size=image_size)
    with torch.no_grad():
        for name, value in generator.state_dict().items():
            if "noise_mlp" in name:
                value.mul_(8)
    return generator


def save_generator(path: Path, seed: int = 0) -> Path:
    save_release(saturated_generator(seed), path, metadata={"note": "random"})
    return path


def make_image(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """(H, W, C) uint8 with smooth and clipped areas, so that clipping at 0 and 255 happens."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [
        128 + 140 * np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9)) for _ in range(channels)
    ]
    return np.clip(np.stack(planes, -1) + rng.normal(0, 2, (height, width, 1)), 0, 255).astype(
        np.uint8
    )


def make_mask(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    inside = ((x - width * 0.45) / (width * 0.3 + 1)) ** 2 + (
        (y - height * 0.55) / (height * 0.3 + 1)
    ) ** 2 <= 1
    return inside.astype(np.uint8) * 255


def make_set(root: Path, count: int = 4, *, size: tuple[int, int] = (24, 20)) -> Path:
    """`root/images/NAME.png` of different sizes with masks, and `root/list.txt`."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(count):
        height, width = size[0] + i % 3, size[1] + i % 5
        name = f"{i:03d}"
        Image.fromarray(make_image(i, height, width)).save(root / f"images/{name}.png")
        Image.fromarray(make_mask(height, width)).save(root / f"masks/{name}.png")
        names.append(name)
    (root / "list.txt").write_text("\n".join(names) + "\n")
    return root


def make_config(root: Path, out: Path, *overrides: str) -> GenerateConfig:
    return load_config(GenerateConfig, None, [*base_overrides(root, out), *overrides])


def base_overrides(root: Path, out: Path) -> list[str]:
    return [
        "data.format=binary_mask",
        f"data.root={root}",
        "data.images=images",
        "data.labels=masks",
        f"output.dir={out}",
        "run.device=cpu",
    ]


def protect_set(root: Path, out: Path, *overrides: str, seed: int = 0) -> Summary:
    """Protect a set of `make_set` with the saturated generator, in this process."""
    return generate(make_config(root, out, *overrides), generator=saturated_generator(seed))


def entries_of(out: Path) -> dict[str, dict]:
    return {entry["key"]: entry for entry in read_manifest(out)}


def tree_bytes(out: Path) -> dict[str, bytes]:
    """Every file below a folder but the records of the run, by relative path."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(RECORDS)
    }
