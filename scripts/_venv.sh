# Sourced by the other scripts: makes .venv where missing and brings it up to date.
#
#   source scripts/_venv.sh && prepare_venv "[eval,dev]"
#
# What was installed is remembered in .venv by a checksum of pyproject.toml, so that a second call
# takes no time. UNSEG_PYTHON chooses the interpreter that makes the environment; UNSEG_NO_INSTALL=1
# takes .venv as it is.

fail() {
    printf '%s\n' "$*" >&2
    exit 2
}

prepare_venv() {
    local extras="$1" python="${UNSEG_PYTHON:-python3}" stamp
    if [ "${UNSEG_NO_INSTALL:-}" = 1 ]; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        command -v "$python" >/dev/null ||
            fail "$python: not found; install Python 3.11 or newer, or set UNSEG_PYTHON"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$python is $("$python" -V 2>&1); Python 3.11 or newer is needed: set UNSEG_PYTHON"
        "$python" -m venv .venv || {
            rm -rf .venv
            fail "$python cannot make .venv; install its venv module (python3-venv on Debian)"
        }
    fi
    stamp=".venv/installed$(printf '%s' "$extras" | tr -c 'a-z\n' '-')"
    if ! sha256sum --status -c "$stamp" 2>/dev/null; then
        echo "installing unseg$extras into .venv (several GB on the first run) ..."
        .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -e ".$extras"
        sha256sum pyproject.toml >"$stamp"
    fi
}
