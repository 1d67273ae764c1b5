#!/bin/sh
# Builds the real Toxiproxy 2.12.0 server with Go into .sim/toxiproxy/bin: what the conformance table, the wedge test
# and the bench hold `sim proxy` against. Done once; quick when it is there. Takes under a minute of a core.
# GO names the Go to build with (default: go).
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
go=${GO:-go}
version=2.12.0
into=$root/.sim/toxiproxy
mkdir -p "$into/bin"

command -v "$go" >/dev/null 2>&1 || {
    echo "building Toxiproxy needs Go, and there is no $go on PATH (Debian: golang-go; or https://go.dev/dl/)" >&2
    exit 1
}

if [ ! -x "$into/bin/toxiproxy-server" ]; then
    work=$into/build
    rm -rf "$work" && mkdir -p "$work"
    (
        cd "$work"
        "$go" mod init toxiproxy/server >/dev/null 2>&1
        "$go" get "github.com/Shopify/toxiproxy/v2/cmd/server@v$version"
        nice -n 19 "$go" build -trimpath -ldflags "-s -w -X github.com/Shopify/toxiproxy/v2.Version=$version" \
            -o server.new github.com/Shopify/toxiproxy/v2/cmd/server
    ) >"$into/build.log" 2>&1 || {
        tail -20 "$into/build.log" >&2
        echo "building Toxiproxy $version failed; the whole of it: .sim/toxiproxy/build.log" >&2
        exit 1
    }
    mv "$work/server.new" "$into/bin/toxiproxy-server"
    rm -rf "$work"
fi
"$into/bin/toxiproxy-server" -version
