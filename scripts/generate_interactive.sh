#!/usr/bin/env bash
# Protect the seven parts of HQSeg-44K.
#   DATA_ROOT=/data NPROC=8 bash scripts/generate_interactive.sh generator.path=FILE [key=value ...]
# NPROC processes (1 by default), one a GPU; DATA_ROOT is the folder of docs/DATASETS.md ("data").
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
[ -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] && python=.venv/bin/python
data="${DATA_ROOT:-data}"
run=("$python" generate.py)
[ "${NPROC:-1}" -gt 1 ] && run=("$python" -m torch.distributed.run --standalone --nproc_per_node="$NPROC" generate.py)
exec "${run[@]}" configs/generate/interactive.yaml data.root="$data" "$@"
