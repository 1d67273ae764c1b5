#!/bin/sh
# Builds Prometheus 3.5 and Alertmanager 0.28 with Go into .sim/tools3/bin: the newer pair that `make live` runs the
# exercises with, too. Done once; quick when they are there. Takes about four minutes of a core, at low priority.
# GO names the Go to build with (default: go).
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
go=${GO:-go}
into=$root/.sim/tools3
mkdir -p "$into/bin"

command -v "$go" >/dev/null 2>&1 || {
    echo "building Prometheus 3 needs Go, and there is no $go on PATH (Debian: golang-go; or https://go.dev/dl/)" >&2
    exit 1
}

build() {
    # $1: the program; $2: its module and version; $3: the package; $4: what it is to say of itself
    [ ! -x "$into/bin/$1" ] || return 0
    work=$into/build-$1
    rm -rf "$work" && mkdir -p "$work"
    (
        cd "$work"
        "$go" mod init "tools3/$1" >/dev/null 2>&1
        "$go" get "$3@$2"
        nice -n 19 "$go" build -trimpath -ldflags "-s -w -X github.com/prometheus/common/version.Version=$4" \
            -o "$1.new" "$3"
    ) >"$into/$1.log" 2>&1 || {
        tail -20 "$into/$1.log" >&2
        echo "building $1 $4 failed; the whole of it: .sim/tools3/$1.log" >&2
        exit 1
    }
    mv "$work/$1.new" "$into/bin/$1"
    rm -rf "$work"
    "$into/bin/$1" --version 2>&1 | head -1
}

build prometheus v0.305.0 github.com/prometheus/prometheus/cmd/prometheus 3.5.0
build alertmanager v0.28.1 github.com/prometheus/alertmanager/cmd/alertmanager 0.28.1
