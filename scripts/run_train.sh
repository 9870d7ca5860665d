#!/usr/bin/env bash
# Train with several processes on this machine: NPROC=8 by default, one a GPU.
#   bash scripts/run_train.sh CONFIG [key=value ...]
#   NPROC=1 bash scripts/run_train.sh CONFIG
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
[ -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] && python=.venv/bin/python
# torchrun is started as a module, so that it is the one of the chosen Python.
exec "$python" -m torch.distributed.run --standalone --nproc_per_node="${NPROC:-8}" train.py "$@"
