"""Train victims on protected pictures, test them on clean ones, and write the report.

    unseg evaluate configs/evaluate/kvasir_unet_debug.yaml
    unseg evaluate configs/evaluate/kvasir_unet.yaml run_dir=work_dirs/evaluate/kvasir
    torchrun --nproc-per-node 8 -m unseg.cli evaluate CONFIG                     # one cell a GPU
    torchrun --nproc-per-node 8 -m unseg.cli evaluate CONFIG ranks_per_cell=8    # 8 GPUs a cell

    unseg evaluate CONFIG dry_run=true    # what it would cost, and what data and weights it lacks

The same command again goes on where it was stopped; several processes, also on several machines
with one file system, may run it at once. Exit code 1: some cells failed (their reason stands in
`cells/NAME/failure.txt`); they are tried again next time. 130: stopped by SIGTERM or Ctrl-C; a cell
in training has written its state.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from unseg.commands._run import EXIT_DONE, EXIT_SOME_FAILED, config_command, user_errors
from unseg.config.evaluate import EvaluateConfig
from unseg.utils.logging import setup_logging
from unseg.utils.provenance import provenance

_log = logging.getLogger(__name__)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run a grid and write its report.

    Returns:
        0, or 1 if a cell failed.
    """
    config = config_command(argv, EvaluateConfig, prog="unseg evaluate", doc=__doc__)
    if config is None:
        return EXIT_DONE
    from unseg.utils import distributed
    from unseg.victims.grid.preflight import check_grid, plan_lines
    from unseg.victims.grid.run_grid import run_grid
    from unseg.victims.report.entries import check_cards
    from unseg.victims.report.rows import ROWS, write_rows
    from unseg.victims.report.write import summary_lines, write_report

    if config.dry_run:
        print("\n".join(plan_lines(config)))
        return EXIT_DONE
    check_grid(config)
    check_cards(config)
    # Cells share the grid through its folder alone; only the ranks of one cell form a group.
    distributed.init_group(config.ranks_per_cell)
    rank = int(os.environ.get("RANK", "0"))
    setup_logging(Path(config.run_dir) / "evaluate.log", rank=rank)
    origin = provenance(
        shlex.join(["unseg", "evaluate", *(sys.argv[1:] if argv is None else argv)])
    )
    try:
        outcome = run_grid(config, origin=origin)
    finally:
        distributed.shutdown()
    for name, reason in outcome.failed.items():
        _log.error("failed: %s: %s", name, reason)
    if outcome.done and rank % config.ranks_per_cell == 0:
        path = write_report(config)
        write_rows(config)
        if rank == 0:
            print("\n".join(summary_lines(config)))
            pictures = sorted(path.parent.glob("figures/predictions_*.png"))
            print("\n".join(f"picture: {picture}" for picture in pictures))
            print(f"report: {path.with_suffix('.html')}; as data: {path.with_name(ROWS)}")
    return EXIT_SOME_FAILED if outcome.failed else EXIT_DONE


@user_errors
def check(argv: Sequence[str] | None = None) -> int:
    """Exit code 2 where a call of `main` lacks something; for launchers of several processes.

    Prints how many of them train each cell.
    """
    config = config_command(argv, EvaluateConfig, prog="unseg evaluate", doc=__doc__)
    if config is None:
        return EXIT_DONE
    if not config.dry_run:
        from unseg.victims.grid.preflight import check_grid

        check_grid(config)
    print(config.ranks_per_cell)
    return EXIT_DONE
