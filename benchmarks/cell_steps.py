"""Processor seconds of one evaluation's cell, its steps apart from the rest.

    python -m benchmarks.cell_steps configs/evaluate/sizes.yaml humans clean unet 24

The arguments are a grid's file and, of it, names of a data set, a method and a victim, and how many
steps. Relative folders of the file are looked for below the working folder. Another state of the
program is measured by the same file: `PYTHONPATH=OTHER python benchmarks/cell_steps.py ...`.

Prints the seconds of the whole cell, from an empty run folder to the report, and of a step, as the
median over the second half of the training. Compare several runs in turn: other work on the machine
changes the time that a step takes by some percent.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from torch.optim.optimizer import register_optimizer_step_post_hook

from unseg.commands.evaluate import main as evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one cell and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cell_steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a grid")
    parser.add_argument("data", help="name in it")
    parser.add_argument("method", help="name in it, or clean")
    parser.add_argument("victim", help="name in it")
    parser.add_argument("steps", type=int, help="of its training, rounded up to whole epochs")
    given = parser.parse_args(argv)
    marks: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: marks.append(time.process_time()))
    for name in ("unseg.victims.grid.run_grid", "unseg.victims.report.write"):
        importlib.import_module(name)  # before the clock starts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(yaml.safe_dump(one_cell(given, Path(folder) / "run")))
        start = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                code = evaluate([str(path)])
        finally:
            hook.remove()
        whole = time.process_time() - start
    if code or len(marks) < 3:
        print(f"failed: exit code {code}, {len(marks)} steps", file=sys.stderr)
        return 1
    steps = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    step = statistics.median(steps[len(steps) // 2 :])
    print(
        f"{given.config.stem} {given.data} {given.method} {given.victim}: "
        f"{len(marks)} steps, {1000 * step:.1f} ms a step, whole cell {whole:.2f} s"
    )
    return 0


def one_cell(given: argparse.Namespace, run_dir: Path) -> dict[str, Any]:
    """The grid of one cell of another grid."""
    grid = yaml.safe_load(given.config.read_text())
    victim = grid["victims"][given.victim]
    victim["recipe"] = {**victim["recipe"], "steps": given.steps}
    cell = {"data": [given.data], "methods": [given.method], "victims": [given.victim]}
    methods = {given.method: grid["methods"][given.method]} if given.method != "clean" else {}
    return {
        **grid,
        "run_dir": str(run_dir),
        "data": {given.data: grid["data"][given.data]},
        "methods": methods,
        "victims": {given.victim: victim},
        "grid": [cell],
    }


if __name__ == "__main__":
    sys.exit(main())
