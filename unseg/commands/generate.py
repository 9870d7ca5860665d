"""Protect a data set. The runbook stands in generate.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from unseg.commands._run import EXIT_DONE, EXIT_SOME_FAILED, config_command, user_errors
from unseg.config.generate import GenerateConfig
from unseg.utils.logging import setup_logging

DOC = """Protect a data set with a frozen generator, or with a control.

  unseg generate configs/generate/folder.yaml data.root=DIR output.dir=OUT generator.path=FILE
  unseg generate configs/generate/pascal.yaml --dry-run           check first, write nothing
  unseg generate configs/generate/pascal.yaml method=random_sign noise.grid=256 output.dir=OUT
  NPROC=8 bash scripts/generate_pascal.sh                         all GPUs of a machine

The same command continues a run that was stopped: what is done and unchanged is kept. Exit codes:
0 all images written, 1 some failed (see manifest.jsonl), 2 bad call or configuration.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg generate CONFIG [key=value ...] [--dry-run]`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    arguments = ["run.dry_run=true" if a == "--dry-run" else a for a in arguments]
    config = config_command(arguments, GenerateConfig, prog="unseg generate", doc=DOC)
    if config is None:
        return EXIT_DONE
    from unseg.protection.run import generate
    from unseg.protection.stream import StoppedError
    from unseg.utils import distributed

    distributed.init()
    try:
        setup_logging(rank=distributed.rank())
        summary = generate(config)
        if distributed.is_main():
            print(summary.table())
        return summary.exit_code
    except StoppedError as error:
        print(error, file=sys.stderr)
        return EXIT_SOME_FAILED
    finally:
        distributed.shutdown()
