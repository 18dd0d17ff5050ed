#!/usr/bin/env bash
# Starts a Docker engine from Debian's packages and imports stand-ins for the base images of the Dockerfile, for machines where no engine runs
# and no registry can be reached. An engine that answers already is used as it is.
#   eval "$(e2e/docker/engine.sh)"     sets what docker and docker-compose need
#   e2e/docker/engine.sh stop          ends the engine that it started, and removes all that was built in it
# The engine leaves the machine's network alone: no default bridge, no firewall rules. So builds go over the network of the host
# (BUILD_NETWORK), containers see each other and not the outside, and ports are published by Docker's own proxy.
# The stand-ins: golang:1.26 is this machine's Go toolchain on busybox; gcr.io/distroless/static-debian12:nonroot is CA certificates, time
# zones and user 65532, nothing else.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
name=omnia-gateway-docker
root=${TMPDIR:-/tmp}/$name
sock=unix://$root/docker.sock
say() { echo "$*" >&2; }
running() { DOCKER_HOST=$sock docker info >/dev/null 2>&1; }

stop() {
  local pid
  if running; then
    DOCKER_HOST=$sock docker container ls --all --quiet | DOCKER_HOST=$sock xargs --no-run-if-empty docker container rm --force >/dev/null
    DOCKER_HOST=$sock docker network prune --force >/dev/null # the bridges
    pid=$(<"$root/pid")
    kill "$pid" && tail --pid="$pid" -f /dev/null
  fi
  awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | xargs --no-run-if-empty umount
  rm -rf "$root"
  find /sys/fs/cgroup -depth -type d -path "*/$name*" -exec rmdir {} + # empty by now
}

start() {
  mkdir -p "$root"
  setsid dockerd --data-root "$root/data" --exec-root "$root/exec" --pidfile "$root/pid" --host "$sock" \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "$name" \
    --bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false >"$root/log" 2>&1 </dev/null &
  for _ in {1..150}; do running && return || sleep 0.2; done
  say "dockerd did not start:" && tail -5 "$root/log" >&2 && exit 1
}

# import NAME FOLDER CHANGES…: make an image of a folder, and remove the folder.
import() {
  local name=$1 folder=$2
  shift 2
  tar -C "$folder" -c . | DOCKER_HOST=$sock docker import "${@/#/--change=}" - "$name" >&2
  rm -rf "$folder"
}

golang() {
  local fs
  fs=$(mktemp -d)
  mkdir -p "$fs"/{bin,usr/bin,usr/local,etc/ssl/certs,tmp,root,go}
  chmod 1777 "$fs/tmp"
  cp /bin/busybox "$fs/bin/"
  for applet in $(/bin/busybox --list); do [[ $applet == busybox ]] || ln -s busybox "$fs/bin/$applet"; done
  cp -r "$(go env GOROOT)" "$fs/usr/local/go"
  cp /etc/ssl/certs/ca-certificates.crt "$fs/etc/ssl/certs/"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$fs/etc/passwd"
  import golang:1.26 "$fs" 'ENV PATH=/usr/local/go/bin:/go/bin:/bin:/usr/bin GOPATH=/go GOTOOLCHAIN=local' 'WORKDIR /go'
}

distroless() {
  local fs
  fs=$(mktemp -d)
  mkdir -p "$fs"/{etc/ssl/certs,tmp,home/nonroot,usr/share}
  chmod 1777 "$fs/tmp"
  cp /etc/ssl/certs/ca-certificates.crt "$fs/etc/ssl/certs/"
  cp -r /usr/share/zoneinfo "$fs/usr/share/"
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$fs/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$fs/etc/group"
  import gcr.io/distroless/static-debian12:nonroot "$fs" 'USER 65532:65532' 'WORKDIR /home/nonroot' \
    'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt'
}

case ${1:-start} in
stop) stop ;;
start)
  if ! running; then
    docker info >/dev/null 2>&1 && exit # somebody's own engine
    "$top/tools/install" docker >&2
    stop
    say "starting dockerd"
    start
    say "importing stand-ins for the base images"
    golang
    distroless
  fi
  echo "export DOCKER_HOST=$sock BUILD_NETWORK=host"
  ;;
*) say "usage: $0 [stop]" && exit 2 ;;
esac
