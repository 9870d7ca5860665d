#!/usr/bin/env bash
# Protect the medical sets that are there: lung CT, Kvasir-SEG.
#   DATA_ROOT=/data NPROC=8 bash scripts/generate_medical.sh generator.path=FILE [key=value ...]
# NPROC processes (1 by default), one a GPU; DATA_ROOT is the folder of docs/DATASETS.md ("data").
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python}"
[ -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] && python=.venv/bin/python
data="${DATA_ROOT:-data}"
run=("$python" generate.py)
[ "${NPROC:-1}" -gt 1 ] && run=("$python" -m torch.distributed.run --standalone --nproc_per_node="$NPROC" generate.py)
# The sets that are there; an output.dir in "$@" would mix them, so each keeps its own.
found=0
status=0
protect() { # CONFIG FOLDER [key=value ...]
  [ -d "$data/$2" ] || { echo "skipped $1: no folder $data/$2" >&2; return 0; }
  found=1
  "${run[@]}" "configs/generate/$1.yaml" data.root="$data/$2" "${@:3}" || status=$?
}
protect medical_lung LungCT "$@"
protect medical_kvasir Kvasir-SEG "$@"
[ "$found" = 1 ] || { echo "no data set below $data; see docs/DATASETS.md" >&2; exit 2; }
exit "$status"
