"""Pre-train the surrogate's encoder as a masked autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

from unseg.commands._run import EXIT_DONE, EXIT_INTERRUPTED, config_command, user_errors
from unseg.config.pretrain import PretrainConfig

DOC = """Pre-train an encoder for the surrogate on any folder of images, without labels.

  unseg pretrain-mae configs/pretrain/lab_cpu.yaml root=DIR
  unseg train configs/train/lab_cpu.yaml surrogate.weights=work_dirs/mae_lab_cpu/encoder.pth

Under torchrun (-m unseg.commands.pretrain_mae) several processes share each batch. Exit codes:
0 done, 2 bad call, configuration or data, 130 stopped (the encoder of that moment is written).
"""


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run `unseg pretrain-mae CONFIG [key=value ...]`."""
    config = config_command(argv, PretrainConfig, prog="unseg pretrain-mae", doc=DOC)
    if config is None:
        return EXIT_DONE
    from unseg.engine.pretrain.mae import pretrain
    from unseg.utils import distributed

    distributed.init()
    try:
        return EXIT_DONE if pretrain(config) else EXIT_INTERRUPTED
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
