#!/usr/bin/env bash
# Keeps one process of a run alive on a machine without a scheduler, such as a TPU VM.
#
#   launch/supervise.sh start FOLDER COMMAND...   starts in the background
#   launch/supervise.sh status FOLDER             one line: running, ended with a code, none
#   launch/supervise.sh follow FOLDER             shows the log; exits with the code of the run
#   launch/supervise.sh stop FOLDER               lets the run save and waits for its end
#
# FOLDER gets log, pid, code and failures. restart.sh decides about restarts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/restart.sh
source "$here/restart.sh"

if [ $# -lt 2 ]; then
  echo "usage: supervise.sh start|status|follow|stop FOLDER [COMMAND...]" >&2
  exit 2
fi
action=$1
folder=$2
shift 2

# Prints the process id of the supervisor if it is running. Check its command line, too:
# after a reboot the id may belong to another process.
living() {
  local pid
  pid=$(cat "$folder/pid" 2>/dev/null) || return
  grep -qa supervise.sh "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

log() {
  echo "$(date -u +%FT%TZ) supervise.sh: $*"
}

start() {
  if living >/dev/null; then
    echo "run: running already; stop it first to change its flags"
    return
  fi
  mkdir -p "$folder"
  rm -f "$folder/code" "$folder/failures"
  setsid nohup "$here/supervise.sh" loop "$folder" "$@" >>"$folder/log" 2>&1 </dev/null &
  echo $! >"$folder/pid"
  echo "run: started"
}

loop() {
  local began code child="" stopping="" signalled
  # Pass on only the first signal; a second one would end the run before it has saved.
  trap 'signalled=1
    if [ -z "$stopping" ]; then
      stopping=1
      [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
    fi' TERM INT
  code=143
  while [ -z "$stopping" ]; do
    log "starting: $*"
    began=$SECONDS
    "$@" &
    child=$!
    # A signal interrupts `wait`; its code is then not that of the command.
    while :; do
      signalled=""
      code=0
      wait "$child" || code=$?
      [ -n "$signalled" ] || break
    done
    child=""
    log "ended with code $code after $((SECONDS - began)) s"
    if [ -n "$stopping" ] || ! may_restart "$code" $((SECONDS - began)) "$folder/failures"; then
      break
    fi
    sleep "${RESTART_DELAY:-10}"
  done
  echo "$code" >"$folder/code"
  exit "$code"
}

status() {
  if living >/dev/null; then
    echo "run: running"
  elif [ -f "$folder/code" ]; then
    echo "run: ended with $(<"$folder/code")"
  else
    echo "run: none here"
  fi
}

follow() {
  local pid
  if pid=$(living); then
    tail --pid="$pid" --sleep-interval=0.3 -n 100 -F "$folder/log"
  elif [ -f "$folder/log" ]; then
    tail -n 100 "$folder/log"
  fi
  status
  exit "$(cat "$folder/code" 2>/dev/null || echo 1)"
}

stop() {
  local pid
  if pid=$(living); then
    kill -TERM "$pid"
    timeout "${STOP_SECONDS:-600}" tail --pid="$pid" --sleep-interval=0.3 -f /dev/null || {
      echo "run: still saving after ${STOP_SECONDS:-600} s" >&2
      exit 1
    }
  fi
  status
}

case $action in
  start | loop | status | follow | stop) "$action" "$@" ;;
  *)
    echo "error: supervise.sh knows start, status, follow and stop, not $action" >&2
    exit 2
    ;;
esac
