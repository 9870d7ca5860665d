#!/usr/bin/env bash
# From a fresh checkout to a first result: makes .venv, installs the package with what evaluation
# needs, trains on embedded scenes and tests what that protects. No data, weights or GPU needed;
# under 10 minutes on 2 cores after installation.
#
# UNSEG_QUICKSTART_OVERRIDES="key=value ..." are overrides of configs/train/quickstart.yaml, and
# UNSEG_QUICKSTART_EVALUATE_OVERRIDES of configs/evaluate/quickstart.yaml, with which a test makes
# the run tiny.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_venv.sh
[ $# -eq 0 ] || fail "usage: bash scripts/quickstart.sh, without arguments; found: $*"
prepare_venv "[eval]"

.venv/bin/unseg doctor

# 1. Train a tiny generator and its surrogate. A finished run is not repeated: remove its folder.
read -r -a overrides <<<"${UNSEG_QUICKSTART_OVERRIDES:-}"
.venv/bin/unseg train configs/train/quickstart.yaml "${overrides[@]}"
.venv/bin/python scripts/quickstart_report.py configs/train/quickstart.yaml "${overrides[@]}"

# 2. Train five victims: on clean scenes, on scenes with random signs, and on scenes protected by that
#    generator and by the two that are shipped. All are tested on clean scenes: low means protected.
#    Ends with a table and a picture.
read -r -a overrides <<<"${UNSEG_QUICKSTART_EVALUATE_OVERRIDES:-}"
.venv/bin/unseg evaluate configs/evaluate/quickstart.yaml "${overrides[@]}"
