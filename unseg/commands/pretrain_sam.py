"""Pre-train a promptable segmenter: a frozen part for small generators."""

from __future__ import annotations

from collections.abc import Sequence

from unseg.commands._run import EXIT_DONE, EXIT_INTERRUPTED, config_command, user_errors
from unseg.config.pretrain import PretrainSamConfig

DOC = """Train a promptable segmenter on clean pairs: a frozen part for small generators.

  unseg pretrain-sam configs/pretrain/sam_lab_cpu.yaml data.root=DIR
  unseg train configs/train/lab_cpu.yaml generator.weights=work_dirs/sam_lab_cpu/sam.pth

The same command continues a run that was stopped. Under torchrun (-m unseg.commands.pretrain_sam)
several processes share each batch. Exit codes: 0 done, 2 bad call, configuration or data, 130
stopped by SIGTERM or Ctrl-C after saving.
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg pretrain-sam CONFIG [key=value ...]`."""
    config = config_command(argv, PretrainSamConfig, prog="unseg pretrain-sam", doc=DOC)
    if config is None:
        return EXIT_DONE
    from unseg.engine.pretrain.sam import pretrain_sam
    from unseg.utils import distributed

    distributed.init()
    try:
        return EXIT_DONE if pretrain_sam(config) else EXIT_INTERRUPTED
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
