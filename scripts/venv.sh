#!/bin/sh
# Makes .venv fit what it is needed for: `scripts/venv.sh run` or `scripts/venv.sh dev`. Quick when it already does.
#
# What was installed is written down last, as a digest of the lock files, the project file, the interpreter and this
# folder; so a change of a lock, a moved tree or an install that was cut short is done again, and nothing else is.
# PYTHON names the interpreter to make it with (default: the first of python3, python3.14 … python3.11 that is new enough).
set -eu
cd "$(dirname "$0")/.."
purpose=${1:-run}
case $purpose in
run) lock=requirements.lock ;;
dev) lock=requirements-dev.lock ;;
*) echo "usage: scripts/venv.sh run|dev" >&2 && exit 2 ;;
esac
venv=.venv
python=$venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is not a Python 3.11 or newer: $("$PYTHON" --version 2>&1 || true)" >&2
        return 1
    fi
    for each in python3 python3.14 python3.13 python3.12 python3.11; do
        new_enough "$each" && echo "$each" && return
    done
    echo "sim needs Python 3.11 or newer; python3 here is: $(python3 --version 2>&1 || echo 'not there')" >&2
    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3" >&2
    return 1
}

digest() {
    # $1: the lock. What an install depends on, in one line.
    { cat "$1" pyproject.toml && pwd && "$python" -c 'import sys; print(sys.version, sys.base_prefix)'; } | cksum
}

usable() {
    [ -x "$python" ] && new_enough "$python" && "$python" -m pip --version >/dev/null 2>&1
}

if ! usable; then
    base=$(find_python)
    "$base" -c 'import ensurepip, venv' 2>/dev/null || {
        echo "$base cannot make environments: its venv module is not installed (Debian, Ubuntu: apt-get install python3-venv)" >&2
        exit 1
    }
    [ ! -e $venv ] || echo "$venv is half made or too old: making it anew" >&2
    "$base" -m venv --clear $venv
fi

# What is there for development is there for running too.
for each in $purpose dev; do
    stamp=$venv/installed.$each
    of=requirements.lock
    [ "$each" = run ] || of=requirements-dev.lock
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(digest $of)" ]; then
        exit 0
    fi
done

echo "installing $lock into $venv" >&2
rm -f $venv/installed.run $venv/installed.dev
# The lock is complete: without --no-deps an extra (`coverage[toml]`) is resolved anew, to a release nobody locked.
"$python" -m pip install --quiet --require-hashes --no-deps -r $lock
"$python" -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
"$python" -m pip check --quiet
digest $lock >$venv/installed.$purpose.new
mv $venv/installed.$purpose.new $venv/installed.$purpose
