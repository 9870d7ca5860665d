#!/usr/bin/env bash
# Train on several machines under Slurm: one torchrun a node, one process a GPU.
#   sbatch --nodes=2 --gpus-per-node=8 scripts/run_train_slurm.sh [CONFIG [key=value ...]]
# Without CONFIG the paper's recipe. Slurm's time limit sends SIGTERM a minute before the end; the run
# saves, and the same command continues it.
#SBATCH --job-name=unseg
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@60
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
DEFAULT_NPROC="${SLURM_GPUS_ON_NODE:-8}"
source scripts/_launch.sh
[ -n "${SLURM_JOB_ID:-}" ] || fail "not a Slurm job; start it with sbatch, or use scripts/run_train.sh"
[ $# -gt 0 ] || set -- configs/train/unseg_vit_b.yaml
only_asks "$@" || check_call train "$@"
head_node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
port=$((20000 + SLURM_JOB_ID % 20000))
exec srun "$python" -m torch.distributed.run \
    --nnodes="$SLURM_NNODES" --nproc_per_node="$processes" \
    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head_node:$port" \
    train.py "$@"
