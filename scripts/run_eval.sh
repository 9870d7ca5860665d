#!/usr/bin/env bash
# Run an evaluation grid with several processes that share it: NPROC=1 by default, one a GPU.
#   bash scripts/run_eval.sh configs/evaluate/kvasir_unet.yaml [key=value ...]
#   NPROC=8 bash scripts/run_eval.sh CONFIG [key=value ...]
# Run it again after an interruption: finished cells are skipped, the others go on. Exit code 1:
# some cells failed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_launch.sh
[ $# -gt 0 ] || fail "usage: bash scripts/run_eval.sh CONFIG [key=value ...], of configs/evaluate"
if only_asks "$@"; then exec "$python" -m unseg.cli evaluate "$@"; fi
check_call evaluate "$@"
pids=()
for ((rank = 0; rank < processes; rank++)); do
    RANK=$rank LOCAL_RANK=$rank "$python" -m unseg.cli evaluate "$@" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
    wait "$pid" || status=$?
done
exit "$status"
