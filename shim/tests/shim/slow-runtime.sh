#!/bin/sh
# Stands in for an OCI runtime that is slow, or hangs, as a test wishes: `create` leaves a sleeping process, `exec` one that runs
# the file `program`. While the file `hold-VERB` is there the verb does not begin; while `hold-after-VERB` is, it does not end.
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --log-format) shift 2 ;;
    *) break ;;
  esac
done
verb=$1; shift
all="$*"
mkdir -p "$root"
echo "$$" > "$root/pid-$verb"
echo "$verb $all" >> "$root/calls"
fail() { printf '{"level":"error","msg":"%s"}\n' "$1" >> "$log"; exit 1; }
hold() { while [ -e "$root/$1" ]; do sleep 0.02; done; }
lives() { kill -0 "$(cat "$root/init")" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$(cat "$root/init")/status"; }
while [ $# -gt 0 ]; do
  case $1 in
    --pid-file) pid_file=$2; shift 2 ;;
    --bundle|--process|--resources) shift 2 ;;
    --*) shift ;;
    *) break ;;
  esac
done
hold "hold-$verb"
case $verb in
  # In a shell between, so that the process is the shim's at once.
  create) (setsid sleep 1000 & echo $! > "$root/init"; echo $! > "$pid_file") ;;
  exec) lives || fail "cannot exec in a stopped container"
    (setsid sh "$root/program" & echo $! > "$pid_file") ;;
  kill) lives || fail "container not running"
    kill -"$2" "$(cat "$root/init")" ;;
  delete) [ -e "$root/init" ] || fail "container does not exist"
    kill -9 "$(cat "$root/init")" 2>/dev/null; rm "$root/init" ;;
  start|pause|resume|update) ;;
  *) echo "no such verb" >&2; exit 2 ;;
esac
hold "hold-after-$verb"
exit 0
