#!/usr/bin/env bash
# Run an evaluation grid with several processes that share it: NPROC=1 by default, one a GPU.
#   bash scripts/run_eval.sh configs/evaluate/kvasir_unet.yaml [key=value ...]
#   NPROC=8 bash scripts/run_eval.sh CONFIG [key=value ...]          # 8 cells at once
#   NPROC=8 bash scripts/run_eval.sh CONFIG ranks_per_cell=8         # 8 GPUs train each cell
# Run it again after an interruption: finished cells are skipped, the others go on. Exit code 1:
# some cells failed; 130: stopped by SIGTERM or Ctrl-C, and cells in training have been saved.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_launch.sh
[ $# -gt 0 ] || fail "usage: bash scripts/run_eval.sh CONFIG [key=value ...], of configs/evaluate"
if only_asks "$@"; then exec "$python" -m unseg.cli evaluate "$@"; fi
ranks="$(check_call evaluate "$@")" || exit 2
if [ "$ranks" -gt 1 ]; then
    ((processes % ranks == 0)) ||
        fail "NPROC=$processes: must be a multiple of ranks_per_cell=$ranks, which train each cell"
    exec "$python" -m torch.distributed.run --standalone --nproc_per_node="$processes" \
        -m unseg.cli evaluate "$@"
fi
pids=()
for ((rank = 0; rank < processes; rank++)); do
    RANK=$rank LOCAL_RANK=$rank "$python" -m unseg.cli evaluate "$@" &
    pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
status=0
for pid in "${pids[@]}"; do
    # A signal to this script ends `wait` before the process has saved: wait again.
    while true; do
        code=0
        wait "$pid" || code=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    [ "$code" = 0 ] || status=$code
done
exit "$status"
