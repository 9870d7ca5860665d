"""Train a generator. The runbook stands in train.py."""

from __future__ import annotations

from collections.abc import Sequence

from unseg.commands._run import EXIT_DONE, EXIT_INTERRUPTED, config_command, user_errors
from unseg.config.train import TrainConfig

DOC = """Train a noise generator and its surrogate, or continue to.

  unseg train configs/train/quickstart.yaml                      minutes on a CPU, no data needed
  unseg train configs/train/lab_cpu.yaml data.root=DIR           small real pairs on a CPU
  bash scripts/run_train.sh configs/train/unseg_vit_b.yaml       the paper's recipe on 8 GPUs

The same command continues a run that was stopped. Exit codes: 0 done, 2 bad call, configuration or
data, 130 stopped by SIGTERM or Ctrl-C after saving.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg train CONFIG [key=value ...]`."""
    config = config_command(argv, TrainConfig, prog="unseg train", doc=DOC)
    if config is None:
        return EXIT_DONE
    from unseg.engine.run import train
    from unseg.utils import distributed

    distributed.init()
    try:
        return EXIT_DONE if train(config) else EXIT_INTERRUPTED
    finally:
        distributed.shutdown()


@user_errors
def check(argv: Sequence[str] | None = None) -> int:
    """Exit code 2 where a call of `main` lacks something; for launchers of several processes."""
    config = config_command(argv, TrainConfig, prog="unseg train", doc=DOC)
    if config is not None:
        from unseg.engine.run import check_inputs

        check_inputs(config)
    return EXIT_DONE
