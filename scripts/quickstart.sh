#!/usr/bin/env bash
# From a fresh checkout to a first result: makes .venv, installs the core, runs the main job.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_venv.sh
prepare_venv ""

.venv/bin/unseg doctor
