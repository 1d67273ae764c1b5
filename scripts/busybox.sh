#!/bin/sh
# Prints the path of a static busybox, of which an image can be made without a registry: Debian's, unpacked once into
# .sim/busybox without root and without touching the system; elsewhere the one on PATH, if it is static.
set -eu
cd "$(dirname "$0")/.."
into=$(pwd)/.sim/busybox
[ ! -x "$into/busybox" ] || { echo "$into/busybox" && exit 0; }
mkdir -p "$into"

if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
    work=$(mktemp -d "$into/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    if (
        cd "$work"
        apt="apt-get -qq -oDir::State::Lists=$work/lists -oDir::Cache=$work/cache -oAPT::Sandbox::User= -oDebug::NoLocking=1"
        $apt update && $apt download busybox-static && dpkg -x busybox-static_*.deb root
    ) >"$into/log" 2>&1; then
        mv "$work/root/bin/busybox" "$into/busybox" 2>/dev/null || mv "$work/root/usr/bin/busybox" "$into/busybox"
        echo "$into/busybox"
        exit 0
    fi
    echo "busybox-static could not be downloaded: $(tail -1 "$into/log")" >&2
fi

own=$(command -v busybox) || { echo "there is no busybox on PATH" >&2 && exit 1; }
! ldd "$own" >/dev/null 2>&1 || { echo "$own is not static: no image can be made of it alone" >&2 && exit 1; }
echo "$own"
