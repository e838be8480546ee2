# shellcheck shell=bash
# Decides whether a run is restarted. supervise.sh and slurm.sbatch source this file.

# may_restart CODE SECONDS FILE: whether to restart a run that ended with CODE after
# SECONDS. FILE counts consecutive failures, so that a run which cannot start does not
# occupy a cluster for a night.
may_restart() {
  local code=$1 seconds=$2 file=$3 failures
  case $code in
    143) return 0 ;; # stopped by a signal after saving its state
    75) ;;           # lost another process, or stalled
    *)
      # Above 128 this process was killed: it is the one that the others miss.
      [ "$code" -gt 128 ] || return 1
      ;;
  esac
  failures=0
  if [ "$seconds" -lt "${FAILURE_SECONDS:-600}" ] && [ -f "$file" ]; then
    failures=$(<"$file")
  fi
  failures=$((failures + 1))
  echo "$failures" >"$file"
  if [ "$failures" -gt "${MAX_FAILURES:-10}" ]; then
    echo "failed $failures times in a row soon after the start: giving up" >&2
    return 1
  fi
}
