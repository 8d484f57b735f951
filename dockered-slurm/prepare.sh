#!/bin/bash
# Makes what `docker-compose up` needs and this machine lacks: docker itself, a
# running dockerd, the base image. Does nothing where all of it is there.
# Exits with 3 where it may not install docker: what it says names the reason.
set -euo pipefail

DEBIAN_RELEASE=${DEBIAN_RELEASE:-bookworm}
BASE=debian:$DEBIAN_RELEASE-slim
PULL_LIMIT_S=90
DOCKERD_LIMIT_S=60

say() { echo "prepare.sh: $*" >&2; }

compose_found() { command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1; }

install_packages() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "$* missing, and only root on Debian may have it installed here"
        exit 3
    fi
    say "installing $*"
    apt-get update -qq
    # Recommended packages too: docker.io's are its command line and builder on newer Debians.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

start_dockerd() {
    if [ "$(id -u)" != 0 ]; then
        say "no docker daemon answers, and only root may start one"
        exit 3
    fi
    local log=/var/log/dockerd.log end=$((SECONDS + DOCKERD_LIMIT_S))
    say "starting dockerd, its log is $log"
    if [ -d /run/systemd/system ]; then
        systemctl start docker
    else
        rm -f /run/docker.pid /var/run/docker.pid # left by a daemon that was killed
        setsid dockerd >"$log" 2>&1 </dev/null &
    fi
    until docker info >/dev/null 2>&1; do
        if ((SECONDS > end)); then
            say "dockerd does not answer after $DOCKERD_LIMIT_S s"
            [ ! -e "$log" ] || tail -n 20 "$log" >&2
            exit 1
        fi
        sleep 0.5
    done
}

make_base_image() {
    local root
    root=$(mktemp -d)
    trap 'rm -rf "$root"' RETURN
    command -v debootstrap >/dev/null || install_packages debootstrap
    say "building $BASE with debootstrap"
    # shellcheck disable=SC2046 # a mirror is one word, or none
    debootstrap --variant=minbase "$DEBIAN_RELEASE" "$root" $("$(dirname "$0")/../scripts/debian-mirror") >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        return 1
    }
    rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb
    tar -C "$root" -c . | docker import - "$BASE" >/dev/null
}

needed=()
command -v dockerd >/dev/null || docker info >/dev/null 2>&1 || needed+=(docker.io)
compose_found || needed+=(docker-compose)
[ ${#needed[@]} = 0 ] || install_packages "${needed[@]}"
docker info >/dev/null 2>&1 || start_dockerd
if ! docker image inspect "$BASE" >/dev/null 2>&1; then
    timeout "$PULL_LIMIT_S" docker pull -q "$BASE" >/dev/null 2>&1 || make_base_image
fi
