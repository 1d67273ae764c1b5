#!/bin/sh
# Sees to it that a Docker engine answers, and prints its address (a DOCKER_HOST), and nothing else, on standard output.
#
#   scripts/engine.sh [--install]              find an engine, or start one; with --install also install Debian's
#   scripts/engine.sh run [--install] -- CMD   the same, run CMD with DOCKER_HOST set, stop again what was started
#   scripts/engine.sh stop                     stop the engine that this script started, with all its containers
#
# Found in this order: DOCKER_HOST, the usual sockets (ENGINE_SOCKETS names others), the engine that this script
# started. None answers: as root, a dockerd of our own is started, on a unix socket only, with all that it keeps in
# .sim/engine. Any of it may be said twice. `run` runs CMD also without an engine, and says so: what needs one then
# says what is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
home=$(pwd)/.sim/engine
wait_s=60
quick=3

say() { echo "engine: $*" >&2; }

answers() {
    # $1: a DOCKER_HOST. Asks GET /_ping, with a time limit; needs no docker program.
    "${PYTHON:-python3}" - "$1" "$quick" <<'PY' 2>/dev/null
import http.client, socket, sys
url, limit = sys.argv[1], float(sys.argv[2])
scheme, _, rest = url.partition("://")
connection = http.client.HTTPConnection(rest if scheme == "tcp" else "localhost", timeout=limit)
if scheme == "unix":
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(limit)
    connection.sock.connect(rest)
connection.request("GET", "/_ping")
sys.exit(0 if connection.getresponse().status == 200 else 1)
PY
}

ours() {
    # The pid of the engine that this script started, if that very process is still there.
    pid=$(cat "$home/dockerd.pid" 2>/dev/null) || return 1
    [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "--pidfile $home/dockerd.pid" &&
        echo "$pid"
}

found() {
    # The address of an engine that answers.
    usual=${ENGINE_SOCKETS-/var/run/docker.sock ${XDG_RUNTIME_DIR:-/nowhere}/docker.sock}
    for each in ${DOCKER_HOST:-} $usual "$home/docker.sock"; do
        case $each in /*) each=unix://$each ;; esac
        ! answers "$each" || { echo "$each" && return 0; }
    done
    return 1
}

installed() {
    command -v dockerd >/dev/null && return 0
    [ "$install" = yes ] || { say "no engine answers, and no dockerd is installed"; return 1; }
    command -v apt-get >/dev/null || { say "no engine answers, and there is no apt-get to install one with"; return 1; }
    say "installing Debian's docker.io"
    mkdir -p "$home"
    { apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends docker.io; } \
        >"$home/install.log" 2>&1 || { say "docker.io could not be installed: $(tail -1 "$home/install.log")"; return 1; }
}

started() {
    [ "$(id -u)" = 0 ] || { say "no engine answers, and only root can start one"; return 1; }
    installed || return 1
    found && return 0 # the package may have started a service
    # A socket's path may have 107 characters, and containerd's is far down.
    [ ${#home} -le 60 ] || { say "the path $home is too long for an engine's sockets"; return 1; }
    mkdir -p "$home"
    setsid dockerd --host "unix://$home/docker.sock" --data-root "$home/data" --exec-root "$home/exec" \
        --pidfile "$home/dockerd.pid" >"$home/dockerd.log" 2>&1 </dev/null &
    begun=$!
    left=$((wait_s * 2))
    while [ $left -gt 0 ] && kill -0 $begun 2>/dev/null; do
        if answers "unix://$home/docker.sock"; then
            say "started dockerd, its log is .sim/engine/dockerd.log"
            echo "unix://$home/docker.sock"
            return 0
        fi
        sleep 0.5
        left=$((left - 1))
    done
    say "dockerd ended, or did not answer within $wait_s s: $(tail -1 "$home/dockerd.log")"
    stop
    return 1
}

stop() {
    pid=$(ours) || { rm -f "$home/dockerd.pid" "$home/docker.sock"; return 0; }
    for signal in TERM KILL; do
        kill -s $signal "$pid" 2>/dev/null
        left=60
        while [ $left -gt 0 ] && [ -d "/proc/$pid" ]; do sleep 0.5 && left=$((left - 1)); done
        [ -d "/proc/$pid" ] || break
    done
    rm -rf "$home/exec" "$home/docker.sock" "$home/dockerd.pid"
    # It mounts its data on itself, and leaves it so: nobody could remove the folder.
    ! mountpoint -q "$home/data" 2>/dev/null || umount "$home/data"
    say "stopped dockerd"
}

install=no
what=find
case "${1:-}" in run | stop) what=$1 && shift ;; esac
[ "${1:-}" != --install ] || { install=yes && shift; }

case $what in
stop) stop ;;
find)
    [ $# = 0 ] || { say "usage: scripts/engine.sh [run|stop] [--install] [-- CMD]" && exit 2; }
    found || started
    ;;
run)
    [ "${1:-}" = -- ] && [ $# -gt 1 ] || { say "usage: scripts/engine.sh run [--install] -- CMD" && exit 2; }
    shift
    mine=no
    host=$(found) || { host=$(started) && [ "$host" = "unix://$home/docker.sock" ] && mine=yes; }
    [ -z "$host" ] || export DOCKER_HOST="$host"
    # Not started by us, not stopped by us; and stopped also when CMD is interrupted.
    trap : INT TERM
    "$@"
    code=$?
    [ $mine = no ] || stop
    exit $code
    ;;
esac
