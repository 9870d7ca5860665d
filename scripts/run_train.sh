#!/usr/bin/env bash
# Train with several processes on this machine: NPROC=8 by default, one a GPU.
#   bash scripts/run_train.sh                              the paper's recipe
#   bash scripts/run_train.sh CONFIG [key=value ...]
#   NPROC=1 bash scripts/run_train.sh CONFIG
set -euo pipefail
cd "$(dirname "$0")/.."
DEFAULT_NPROC=8
source scripts/_launch.sh
[ $# -gt 0 ] || set -- configs/train/unseg_vit_b.yaml
only_asks "$@" || check_call train "$@"
launch train.py "$@"
