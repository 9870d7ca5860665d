#!/usr/bin/env bash
# From a fresh checkout to a first result: makes .venv, installs the core, runs the main job on
# embedded scenes. No data, weights or GPU needed; under 10 minutes on 2 cores after installation.
#
# UNSEG_QUICKSTART_OVERRIDES="key=value ..." are overrides of configs/train/quickstart.yaml, with
# which a test makes the run tiny.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_venv.sh
prepare_venv ""

.venv/bin/unseg doctor

# 1. Train a tiny generator and its surrogate. A finished run is not repeated: remove its folder.
read -r -a overrides <<<"${UNSEG_QUICKSTART_OVERRIDES:-}"
.venv/bin/unseg train configs/train/quickstart.yaml "${overrides[@]}"
.venv/bin/python scripts/quickstart_report.py configs/train/quickstart.yaml "${overrides[@]}"
