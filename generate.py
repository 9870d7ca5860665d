r"""Protect a data set: the runbook.

One process, on a GPU where there is one, else on the CPU:

    python generate.py configs/generate/pascal.yaml generator.path=FILE
    python generate.py configs/generate/folder.yaml data.root=photos output.dir=photos_protected

Look before you leap, then all GPUs of a machine (or several CPU processes):

    python generate.py configs/generate/pascal.yaml --dry-run
    NPROC=8 bash scripts/generate_pascal.sh generator.path=FILE

Several machines that share a disk:

    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 \
        generate.py configs/generate/coco.yaml generator.path=FILE

The controls, at the same budget:

    python generate.py configs/generate/pascal.yaml method=random_sign noise.grid=256 output.dir=OUT

A run writes its pictures, config.yaml, run.json, manifest.jsonl (a line an image) and summary.json
into output.dir. The same command continues a run that was stopped, with any number of processes:
images whose input, label and output still have the checksums of the manifest are kept. The bytes
do not depend on the number of processes or on interruptions, given the same run.batch_size,
device and number of threads (a matrix product rounds differently with another).

Exit codes: 0 all images written, 1 some failed, 2 bad call or configuration, 130 interrupted.
"""

import sys

from unseg.commands.generate import main

if __name__ == "__main__":
    sys.exit(main())
