# Sourced by run_*.sh and _generate.sh, in the repository: which Python, and how many processes.
#
#   DEFAULT_NPROC=8 source scripts/_launch.sh && launch train.py CONFIG [key=value ...]
#
# NPROC processes, one a GPU; PYTHON is another interpreter than that of .venv.
source scripts/_venv.sh

python="${PYTHON:-python}"
[ -x .venv/bin/python ] && [ -z "${PYTHON:-}" ] && python=.venv/bin/python
command -v "$python" >/dev/null || fail "$python: not found; set PYTHON, or make .venv (README.md)"
processes="${NPROC:-${DEFAULT_NPROC:-1}}"
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "NPROC=$processes: must be a whole number above 0"

# Whether a call asks for something to be printed: one process answers.
only_asks() {
    [[ " $* " =~ " "(--help|-h|--print-config|--dry-run)" " ]]
}

# What `check` of a module of unseg.commands finds wrong with a call; ends the script then.
check_call() { # MODULE CONFIG [key=value ...]
    "$python" -c "import sys; from unseg.commands.$1 import check; sys.exit(check())" "${@:2}" || exit 2
}

# Run an entry file; several processes run under the torchrun of the chosen Python.
launch() { # ENTRY CONFIG [key=value ...]
    if [ "$processes" = 1 ] || only_asks "$@"; then
        "$python" "$@"
    else
        "$python" -m torch.distributed.run --standalone --nproc_per_node="$processes" "$@"
    fi
}
