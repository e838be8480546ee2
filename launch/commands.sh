# shellcheck shell=bash
# Common functions of tpu_vm.sh, gke.sh and slurm.sbatch, which source this file.
#
# Their flags --dry-run and --yes set dry_run and yes.

fail() {
  echo "error: $*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
  fail "bash 4.4 or newer is required, this is $BASH_VERSION"

# Prints a command as it would be typed, then runs it unless --dry-run.
show() {
  local word line=+
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "$line" >&2
  [ -n "${dry_run:-}" ] || "$@"
}

# need FLAG VALUE WHAT: fails if a required value is missing: a default could cost money.
need() {
  [ -n "$2" ] || fail "$1=... is missing: $3"
}

# Prints the effect of the next commands and continues only if the user agrees.
confirm() {
  local answer
  echo "$*" >&2
  if [ -n "${dry_run:-}${yes:-}" ]; then
    return
  fi
  [ -t 0 ] || fail "nothing was done; add --yes to agree"
  read -r -p "Continue? [y/N] " answer
  [ "$answer" = y ] || fail "nothing was done"
}
