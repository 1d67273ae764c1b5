#!/bin/sh
# Builds Docker Compose 2.40.3 with Go into .sim/tools/bin/docker-compose, where `sim up` finds it: for a machine whose
# packages have no Compose 2. Done once; quick when it is there. Takes two to three minutes of a core, at low priority.
# GO names the Go to build with (default: go). Nothing to do where `docker compose version` answers.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
go=${GO:-go}
version=v2.40.3
into=$root/.sim/tools/bin/docker-compose
work=$root/.sim/build-compose

if [ -x "$into" ]; then "$into" version && exit 0; fi
command -v "$go" >/dev/null 2>&1 || {
    echo "building Compose needs Go, and there is no $go on PATH (Debian: golang-go; or https://go.dev/dl/)" >&2
    exit 1
}
rm -rf "$work" && mkdir -p "$work" "$(dirname "$into")"
# Its own module file has replace lines, which `go install` refuses; in a module of ours they are not looked at.
(
    cd "$work"
    "$go" mod init compose/build
    "$go" get "github.com/docker/compose/v2/cmd@$version"
    nice -n 19 "$go" build -trimpath -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" \
        -o docker-compose github.com/docker/compose/v2/cmd
) >"$work.log" 2>&1 || {
    tail -20 "$work.log" >&2
    echo "building Compose $version failed; the whole of it: .sim/build-compose.log" >&2
    exit 1
}
mv "$work/docker-compose" "$into"
rm -rf "$work"
"$into" version
