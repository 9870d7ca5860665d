#!/usr/bin/env bash
# What the generate_*.sh share: protect the data sets of some configurations.
#   DATA_ROOT=/data NPROC=8 bash scripts/generate_NAME.sh generator.path=FILE [key=value ...]
# NPROC processes (1 by default), one a GPU; DATA_ROOT is the folder of docs/DATASETS.md ("data").
# Of several data sets, those that are there; an output.dir would mix them, so each keeps its own.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_launch.sh
[ $# -gt 0 ] || fail 'usage: bash scripts/_generate.sh "NAME ..." [key=value ...], names of configs/generate'
read -r -a names <<<"$1"
shift
roots=() found=()
for name in "${names[@]}"; do
    folder="$(sed -n 's|^  root: data||p' "configs/generate/$name.yaml")"
    roots+=("${DATA_ROOT:-data}$folder")
    if [ "${#names[@]}" = 1 ] || [ -d "${roots[-1]}" ]; then found+=("$name"); fi
done
[ "${#found[@]}" -gt 0 ] || fail "none of the folders ${roots[*]} is there; see docs/DATASETS.md"
status=0 asks=--print-config
[ "$processes" = 1 ] || asks=--dry-run # under torchrun a mistake would be a traceback
for i in "${!names[@]}"; do
    if [[ " ${found[*]} " != *" ${names[i]} "* ]]; then
        echo "skipped ${names[i]}: no folder ${roots[i]}" >&2
        continue
    fi
    call=("configs/generate/${names[i]}.yaml" data.root="${roots[i]}" "$@")
    only_asks "$@" || "$python" generate.py "${call[@]}" "$asks" >/dev/null || exit $?
    launch generate.py "${call[@]}" || status=$?
done
exit "$status"
