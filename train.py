"""Train a noise generator: the runbook.

One process, on a GPU where there is one, else on the CPU:

    python train.py configs/train/unseg_vit_b.yaml
    python train.py configs/train/lab_cpu.yaml data.root=DIR optim.generator.lr=1e-4

All GPUs of a machine, or several CPU processes; a batch is divided among them, so the result is the
same step for step:

    bash scripts/run_train.sh configs/train/unseg_vit_b.yaml          # 8 processes
    NPROC=2 bash scripts/run_train.sh configs/train/unseg_vit_b.yaml

Several machines under Slurm, or by hand with `torchrun --nnodes`:

    sbatch --nodes=2 scripts/run_train_slurm.sh configs/train/unseg_vit_b.yaml

One GPU with the paper's batch of 32, four images at a time:

    python train.py configs/train/unseg_vit_b.yaml optim.micro_batch_size=4 optim.precision=bfloat16

Look before you leap: `--print-config` prints what a call would use. Any key of the file can be
overridden on the command line; `--help` lists the flags.

A run lives in work_dirs/NAME: config.yaml, environment.json, train.log, metrics.jsonl, tensorboard,
images, checkpoints and, at the end, generator_NAME.safetensors. The same command continues a run
that was stopped, from its newest checkpoint; `--resume` insists that there is one. SIGTERM and
Ctrl-C save first and end with exit code 130. Exit codes: 0 done, 2 bad call, configuration or data,
130 stopped.
"""

import sys

from unseg.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
