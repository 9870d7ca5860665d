"""Compare UnSeg with the plain path.

    python -m benchmarks generator boxes --size vit_b --threads 1
    python -m benchmarks --json figures.json          # all of them, on the tiny model

Every row runs ours and the plain path alternately in one process, and prints the median CPU time of
both, their ratio beside its goal, the largest difference of the results beside its bound, and the
peak memory above what the process held before. `benchmarks/README.md` explains the plain path.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import data, generation, models, start_up, training
from benchmarks.measure import Row, Settings, machine
from unseg.models import SIZES
from unseg.utils.distributed import pick_device
from unseg.utils.errors import UserError

BENCHMARKS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "generator": models.generator,
    "surrogate_step": models.surrogate_step,
    "generator_step": models.generator_step,
    "noise_decoder": models.noise_decoder,
    "prompts": data.prompts,
    "training_sample": data.training_sample,
    "generation_host": generation.generation_host,
    "train": training.train,
    "generate": generation.generate_rows,
    "scaling": generation.scaling,
    "start_up": start_up.start_up,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmarks; 1 where a result differs by more than its bound."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--repeats", type=int, default=5, help="runs of either path")
    parser.add_argument("--batch", type=int, help="images of our forward pass; 1 on a CPU, else 8")
    parser.add_argument("--images", type=int, default=32, help="images of `train` and `generate`")
    parser.add_argument("--profile", action="store_true", help="print the profiler's top rows")
    given = parser.parse_args(argv)
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        device = pick_device(given.device)
    except UserError as error:
        parser.error(str(error))
    settings = Settings(
        size=given.size,
        device=device,
        repeats=given.repeats,
        batch=given.batch or (8 if device.type == "cuda" else 1),
        num_images=given.images,
        profile=given.profile,
    )
    found = machine(device)
    print("  ".join(f"{key}: {value}" for key, value in found.items()), flush=True)
    rows = []
    for name in given.names or BENCHMARKS:
        for row in BENCHMARKS[name](settings):
            print(text(row), flush=True)
            rows.append(row)
    if given.json:
        content = {"machine": found, "rows": [as_dict(row) for row in rows]}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(any(not row.difference <= row.bound for row in rows))


def text(row: Row) -> str:
    """One row for people."""
    goal = ""
    if row.goal is not None:
        goal = f" (goal {row.goal:g}: {'met' if row.ratio >= row.goal else 'missed'})"
    verdict = "" if row.difference <= row.bound else " TOO LARGE"
    parts = [
        f"{row.benchmark}: {row.case}",
        f"ours {seconds(row.ours)}, plain {seconds(row.plain)}: {row.ratio:.2f}x{goal}",
        f"difference {row.difference:.2g} {row.unit} (bound {row.bound:g}){verdict}",
    ]
    if row.memory_ours is not None and row.memory_plain is not None:
        memory = f"peak memory {row.memory_ours:.0f} / {row.memory_plain:.0f} MiB"
        if row.memory_ratio is not None:
            memory += f" = {row.memory_ratio:.2f}"
        if row.memory_goal is not None and row.memory_ratio is not None:
            verdict = "met" if row.memory_ratio <= row.memory_goal else "missed"
            memory += f" (goal {row.memory_goal:g}: {verdict})"
        parts.append(memory)
    for key, value in row.extra.items():
        if key not in ("times", "repeats"):
            parts.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    if row.note:
        parts.append(f"[{row.note}]")
    return "\n    ".join(parts)


def seconds(value: float) -> str:
    """Seconds in the unit that reads best."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def as_dict(row: Row) -> dict[str, object]:
    """One row for programs."""
    ratios = {"ratio": row.ratio, "memory_ratio": row.memory_ratio}
    return {**dataclasses.asdict(row), **ratios}


if __name__ == "__main__":
    sys.exit(main())
