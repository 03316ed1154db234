#!/bin/bash
# Runs hello-world twice through a daemon of its own: pulled from a registry on loopback, then from local storage.
# Where the internet can be reached, Docker Hub's hello-world runs too. Called by `make hello`.
set -eu
: "${TARGET:=target}"
bin=$(cd "$TARGET/release" && pwd)
hello=$(cd "$TARGET/hello" && pwd)/hello
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
work=$(mktemp -d /tmp/longshore-hello-XXXXXX)
parent=$(basename "$work")

# The registry ends when its stdin does, with this script.
coproc REGISTRY { exec "$bin/longshore-registry" "$hello"; }
read -r registry <&"${REGISTRY[0]}"

daemon=
start() { # CONFIG NAME
  printf '%s\n' "$1" >"$work/$2.toml"
  $sudo "$bin/longshored" --config "$work/$2.toml" --root "$work/$2/root" --state "$work/$2/state" \
    --address "$work/$2.sock" --log-level warn 2>"$work/$2.log" &
  daemon=$!
  export LONGSHORE_HOST="unix://$work/$2.sock"
  for _ in $(seq 200); do $sudo "$bin/longshore" -H "$LONGSHORE_HOST" version >/dev/null 2>&1 && return; sleep 0.05; done
  echo "longshored does not answer; it said:" >&2; cat "$work/$2.log" >&2; exit 1
}
stop() { [ -z "$daemon" ] || { $sudo kill "$daemon" 2>/dev/null || :; wait "$daemon" 2>/dev/null || :; daemon=; }; }
longshore() { echo "\$ longshore $*"; $sudo "$bin/longshore" -H "$LONGSHORE_HOST" "$@"; }
clean() {
  stop
  for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do [ ! -d "$hierarchy/$parent" ] || $sudo rmdir "$hierarchy/$parent" 2>/dev/null || :; done
  $sudo rm -rf "$work"
}
trap clean EXIT

start "[runtime]
cgroup_parent = \"$parent\"
[registry.mirrors]
\"docker.io\" = [\"http://$registry\"]" local
longshore run --rm hello-world
echo "--- once more: the image is here now"
longshore run --rm hello-world
stop

if timeout 5 bash -c 'exec 3<>/dev/tcp/registry-1.docker.io/443' 2>/dev/null; then
  echo "--- and from Docker Hub"
  start "[runtime]
cgroup_parent = \"$parent\"" hub
  longshore run --rm hello-world
  stop
else
  echo "--- Docker Hub cannot be reached from here: its hello-world was left out"
fi
