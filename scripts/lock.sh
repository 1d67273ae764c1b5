#!/bin/sh
# Renews both lock files from pyproject.toml. Needs uv on PATH (or UV=/path/to/uv). Names no registry in its output.
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
export UV_CUSTOM_COMPILE_COMMAND="scripts/lock.sh"
"$UV" pip compile --universal --generate-hashes --python-version 3.11 -q pyproject.toml --extra load --extra browser --extra docker --group build -o requirements.lock "$@"
"$UV" pip compile --universal --generate-hashes --python-version 3.11 -q pyproject.toml --extra load --extra browser --extra docker --group build --group dev \
    -c requirements.lock -o requirements-dev.lock "$@"
