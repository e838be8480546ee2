# shellcheck shell=bash
# When a run that ended is started again. supervise.sh and slurm.sbatch source it.

# may_restart CODE SECONDS FILE: whether a run that ended with CODE after SECONDS is to be
# started once more. FILE counts the failures in a row, so that a run which cannot even
# begin does not burn a cluster for a night.
may_restart() {
  local code=$1 seconds=$2 file=$3 failures
  case $code in
    143) return 0 ;; # stopped by a signal, after its state was saved
    75) ;;           # another process was lost, or the run stood still
    *)
      # Above 128 this process was killed: it is the one that the others lost.
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
    echo "failed $failures times in a row, each soon after its start: giving up" >&2
    return 1
  fi
}
