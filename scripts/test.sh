#!/usr/bin/env bash
# Install everything into .venv, then style, types and all tests.
#
#   bash scripts/test.sh                            everything
#   bash scripts/test.sh tests/unit -k config       what pytest is told
#   UNSEG_DATA=DIR bash scripts/test.sh             with real pictures too; without, those tests skip
#   UNSEG_TEST_PROCESSES=4 bash scripts/test.sh     other than one test process a core
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/_venv.sh
# One test process a core, one thread each: more threads than cores wait for each other. (nproc
# answers OMP_NUM_THREADS where that is set.)
processes="${UNSEG_TEST_PROCESSES:-$(env -u OMP_NUM_THREADS nproc)}"
[[ "$processes" =~ ^[0-9]+$ ]] || fail "UNSEG_TEST_PROCESSES=$processes: must be a whole number"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
# Downloads hidden in a library would make the tests depend on the network.
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

prepare_venv "[eval,demo,dev]"
.venv/bin/python -m pytest --markers "$@" >/dev/null 2>&1 || fail "pytest does not understand: $*"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# In the order of the folders: the long end-to-end tests come before the many short ones.
.venv/bin/python -m pytest -n "$processes" --dist loadscope --no-loadscope-reorder "$@"
