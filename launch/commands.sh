# shellcheck shell=bash
# How tpu_vm.sh, gke.sh and slurm.sbatch show, run and refuse. They source it.
#
# dry_run and yes are set by their flags --dry-run and --yes.

fail() {
  echo "error: $*" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
  fail "bash 4.4 or newer is needed, this is $BASH_VERSION"

# Shows a command as it would be typed, then runs it unless --dry-run.
show() {
  local word line=+
  for word in "$@"; do
    [[ $word =~ ^[[:alnum:]_@%+=:,./-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  echo "$line" >&2
  [ -n "${dry_run:-}" ] || "$@"
}

# need FLAG VALUE WHAT: a value that must be given, since a guess could cost money.
need() {
  [ -n "$2" ] || fail "$1=... is missing: $3"
}

# Says what the next commands bring about and goes on only if that is wanted.
confirm() {
  local answer
  echo "$*" >&2
  if [ -n "${dry_run:-}${yes:-}" ]; then
    return
  fi
  [ -t 0 ] || fail "nothing was done; add --yes to agree"
  read -r -p "Go on? [y/N] " answer
  [ "$answer" = y ] || fail "nothing was done"
}
