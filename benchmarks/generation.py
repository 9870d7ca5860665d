"""Benchmarks of generation: what surrounds the model, whole runs, and how they scale."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import plain_generation, plain_models
from benchmarks.measure import PeakMemory, Row, Settings, compare, now
from benchmarks.models import seeded_generator
from benchmarks.pictures import write_set
from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.models import SIZES, Generator
from unseg.models.weights import save_release
from unseg.noise import Carrier
from unseg.protection.plan import Plan, prepare
from unseg.protection.run import generate
from unseg.protection.writing.writer import WriteJob, write_protected
from unseg.types import Prompts

VOC, CITYSCAPES = (375, 500), (1024, 2048)
QUALITY = 95
SUFFIX = {"png": ".png", "jpeg": ".jpg"}
GOALS = {(VOC, "png"): 5.0, (CITYSCAPES, "png"): 2.5}
PLAIN = "plain"


class FixedNoise(nn.Module):
    """Stands for a generator: the same noise for every image, in no time."""

    noise: Tensor
    noise_carrier, build_arguments = Carrier.parse("rgb"), {"size": "fixed"}

    def __init__(self, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.grid = image_size // patch_size
        self.noise_size = 4 * self.grid
        random = torch.Generator().manual_seed(4)
        shape = (1, 3, self.noise_size, self.noise_size)
        self.register_buffer("noise", torch.rand(shape, generator=random) * 2 - 1)

    def forward(self, image: Tensor, prompts: Prompts) -> Tensor:
        """(B, 3, n, n) whatever comes in."""
        del prompts
        return self.noise.expand(len(image), -1, -1, -1)


def generation_host(settings: Settings) -> Iterator[Row]:
    """Decode, prompt, hand over, and from the pixels that come back to the checked file."""
    spec = SIZES[settings.size]
    model = FixedNoise(spec.image_size, spec.patch_size)
    sizes = (VOC, CITYSCAPES) if settings.size != "tiny" else ((60, 80), (64, 128))
    for size in sizes:
        for kind in ("png", "jpeg"):
            with tempfile.TemporaryDirectory() as folder:
                yield from _host_rows(settings, Path(folder), model, size, kind)


def _host_rows(
    settings: Settings, root: Path, model: FixedNoise, size: tuple[int, int], kind: str
) -> Iterator[Row]:
    names = write_set(root, (size,) * (4 if size == CITYSCAPES else 8))
    config = generate_config(settings, root, root / "ours", f"output.format={kind}")
    plan = prepare(config, generator=model)

    def run_plain() -> Path:
        return plain_run(root, names, model=model, noise_of=model, suffix=SUFFIX[kind])

    def whole() -> Path:
        return generate(_restarted(config), generator=model).folder

    protected = _protected_pixels(plan, whole())

    def host() -> Path:
        for item, pixels in zip(plan.items, protected, strict=True):
            _host_path(plan, item, pixels)
        return plan.layout.folder

    name = f"{size[1]} x {size[0]} {kind}"
    for case, path, goal in (
        ("beside the device", host, GOALS.get((size, kind))),
        ("whole, on the CPU", whole, None),
    ):
        yield compare(
            "generation_host", f"{name}, {case}", settings=settings, ours=path, plain=run_plain,
            images=len(names), difference=_file_difference, unit="grey levels",
            bound=1 if kind == "png" else 255, goal=goal,
        )  # fmt: skip


def _host_path(plan: Plan, item: Any, pixels: np.ndarray) -> None:
    """All that our pipeline does with an image beside the device."""
    file = plan.reader.file(item)
    subject = plan.reader.read(item, file)
    job = WriteJob(
        subject=subject,
        pixels=pixels.copy(),  # which the encoder turns round where they lie
        input_sha256=file.sha256,
        path=plan.layout.path(item.key),
        output=plan.layout.relative(item.key),
        format=plan.layout.format_of(item.key),
        quality=QUALITY,
        bounds=plan.method.bounds,
    )
    write_protected(job)


def _protected_pixels(plan: Plan, folder: Path) -> list[np.ndarray]:
    """What the device hands back for each image (for JPEG something near it)."""
    paths = [folder / plan.layout.relative(item.key) for item in plan.items]
    return [np.array(Image.open(path)) for path in paths]


def generate_rows(settings: Settings) -> Iterator[Row]:
    """Whole runs over many images, model included."""
    model = seeded_generator(settings)
    size = (SIZES[settings.size].image_size // 2, SIZES[settings.size].image_size)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = write_set(root, (size,) * settings.num_images)
        config = generate_config(settings, root, root / "ours", "output.format=png")

        def noise_of(image: Tensor, prompts: Prompts) -> Tensor:
            with torch.no_grad():
                image, prompts = image.to(settings.device), prompts.to(settings.device)
                return plain_models.generate_noise(model, image, prompts).cpu()

        row = compare(
            "generate", f"{settings.size}, {len(names)} images {size[1]} x {size[0]} png",
            settings=settings, ours=lambda: generate(_restarted(config), generator=model).folder,
            plain=lambda: plain_run(root, names, model=model, noise_of=noise_of, suffix=".png"),
            images=len(names), difference=_file_difference, bound=1, unit="grey levels",
        )  # fmt: skip
    row.extra["images/s"] = 1 / row.ours
    yield row


def plain_run(
    root: Path, names: list[str], *, model: Any, noise_of: plain_generation.Noise, suffix: str
) -> Path:
    """The plain program over a set; returns its output folder."""
    output = root / PLAIN
    output.mkdir(exist_ok=True)
    for name in names:
        plain_generation.protect(
            root / "images" / f"{name}.jpg", root / "masks" / f"{name}.png",
            output / f"{name}{suffix}", noise_of=noise_of, image_size=model.image_size,
            mask_size=4 * model.grid, quality=QUALITY,
        )  # fmt: skip
    return output


def generate_config(settings: Settings, root: Path, output: Path, *more: str) -> GenerateConfig:
    """A run over a set of `pictures.write_set`."""
    values = [
        "data.format=binary_mask", f"data.root={root}", "data.images=images", "data.labels=masks",
        "data.mask_values=zero_255", f"output.dir={output}", f"output.quality={QUALITY}",
        f"run.device={settings.device}", f"run.batch_size={settings.batch}",
    ]  # fmt: skip
    return load_config(GenerateConfig, None, [*values, *more])


def _restarted(config: GenerateConfig) -> GenerateConfig:
    """The same run, forgetting what an earlier one did."""
    values = {**vars(config.run), "restart": True}
    return GenerateConfig(**{**vars(config), "run": type(config.run)(**values)})


def _file_difference(ours: Path, plain: Path) -> float:
    """Largest difference of the pictures that both programs wrote."""
    found = 0
    for path in sorted(plain.iterdir()):
        expected = np.array(Image.open(path)).astype(int)
        found = max(found, int(abs(np.array(Image.open(ours / path.name)) - expected).max()))
    return found


def scaling(settings: Settings) -> Iterator[Row]:
    """Seconds and memory against image count, size, batch and ranks, on this model."""
    model = seeded_generator(settings)
    print(
        f"{'images':>7} {'side':>5} {'batch':>5} {'ranks':>5} {'CPU s':>8} {'MiB':>7} {'ms/img':>8}"
    )
    for counts, side, batch in (
        ((25, 100, 300), 128, 1), ((24,), 256, 1), ((24,), 512, 1), ((24,), 1024, 1),
        ((48,), 128, 4), ((48,), 128, 16),
    ):  # fmt: skip
        for count in counts:
            _scaling_line(settings, model, count, side, batch)
    for ranks in (1, 2):
        _ranks_lines(settings, model, ranks)
    yield from ()


def _scaling_line(settings: Settings, model: Generator, count: int, side: int, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_set(root, ((side, side),) * count)
        config = generate_config(settings, root, root / "ours", f"run.batch_size={batch}")
        watch = PeakMemory(settings.device)
        start = now(settings.device)
        generate(config, generator=model)
        _print_line(count, side, batch, 1, now(settings.device) - start, watch.peak())


def _ranks_lines(settings: Settings, model: Generator, ranks: int) -> None:
    """Processes that `torchrun` starts; the slope between two counts leaves their start out."""
    spent = {}
    for count in (20, 100):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_set(root, ((128, 128),) * count)
            save_release(model, root / "model.safetensors", metadata={"note": "benchmark"})
            values = [
                "data.format=binary_mask", f"data.root={root}", "data.images=images",
                "data.labels=masks", f"output.dir={root / 'ours'}", "run.device=cpu",
                f"generator.path={root / 'model.safetensors'}",
            ]  # fmt: skip
            config = root / "config.yaml"
            config.write_text("# all keys are overrides\n{}\n")
            command = [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc_per_node={ranks}", "generate.py", str(config), *values,
            ]  # fmt: skip
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent[count] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            peak = after.ru_maxrss / 1024
            _print_line(count, 128, 1, ranks, spent[count], peak)
            print(f"    wall {time.perf_counter() - start:.1f} s")
    (few, one), (many, other) = sorted(spent.items())
    print(f"    slope with {ranks} ranks: {(other - one) / (many - few) * 1e3:.1f} ms/img")


def _print_line(
    count: int, side: int, batch: int, ranks: int, spent: float, peak: float | None
) -> None:
    memory = "-" if peak is None else f"{peak:.0f}"
    print(
        f"{count:>7} {side:>5} {batch:>5} {ranks:>5} {spent:>8.2f} {memory:>7} "
        f"{spent / count * 1e3:>8.1f}",
        flush=True,
    )
