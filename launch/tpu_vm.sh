#!/usr/bin/env bash
# Runs simple_diffusion on a Cloud TPU slice of any number of workers; see README.md here.
#
#   launch/tpu_vm.sh create --name=N --project=P --zone=Z --type=T --runtime=R [--spot]
#   launch/tpu_vm.sh setup  --name=N --project=P --zone=Z
#   launch/tpu_vm.sh run    --name=N --project=P --zone=Z -- --config ... --workdir gs://...
#   launch/tpu_vm.sh watch  (the flags of create) -- (the flags of run)
#   launch/tpu_vm.sh status | logs | stop | delete  --name=N --project=P --zone=Z
#
# create queues the machines. setup copies the commit and installs the requirements. run
# starts the run on all workers and shows the log. watch repeats all this whenever the
# machines are preempted. Also --dry-run (only show the commands), --yes (agree to costs and
# deletions), --worker=I (for logs), --env=NAME=VALUE (for the run), --create-flag=FLAG (for
# gcloud). TPU_NAME, TPU_PROJECT, TPU_ZONE, TPU_TYPE, TPU_RUNTIME can replace the flags.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

name=${TPU_NAME:-} project=${TPU_PROJECT:-} zone=${TPU_ZONE:-}
type=${TPU_TYPE:-} runtime=${TPU_RUNTIME:-}
worker=0 dry_run="" yes="" spot=()
create_flags=() environment=()

action=${1:-}
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --env=*=*) environment+=("${1#--env=}") ;;
    --create-flag=*) create_flags+=("${1#*=}") ;;
    --spot) spot=(--spot) ;;
    --dry-run) dry_run=1 ;;
    --yes) yes=1 ;;
    --)
      shift
      break
      ;;
    *) fail "unknown flag $1 (flags of the run stand after --; values after =)" ;;
  esac
  shift
done
flags=("$@") # of the run
# Fix the commit here, so that watch sets up the same one every time.
revision=$(git rev-parse HEAD)

queue() {
  show gcloud compute tpus queued-resources "$1" "$name" \
    --project="$project" --zone="$zone" "${@:2}"
}

# on WORKER COMMAND: runs a shell command on one worker or on "all".
on() {
  show gcloud compute tpus tpu-vm ssh "$name" --project="$project" --zone="$zone" \
    --worker="$1" --command="$2"
}

check_machine() {
  need --type "$type" "the slice, such as v5litepod-16; cloud.google.com/tpu/docs lists all"
  need --runtime "$runtime" "its software, such as v2-alpha-tpuv5-lite; same page"
}

create() {
  check_machine
  queue create --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" \
    "${spot[@]}" "${create_flags[@]}"
}

costs() {
  echo "COSTS MONEY: a $type${spot[*]:+ (spot)} in $zone, billed to project $project from" \
    "the moment it is granted until 'launch/tpu_vm.sh delete' has ended."
}

# Callers test its status, which disables `set -e`; hence each `|| return`.
setup() {
  local archive
  if [ -n "$(git status --porcelain)" ]; then
    echo "note: uncommitted changes are not copied" >&2
  fi
  # Not in /tmp, where other users could place a file of the same name.
  archive=runs/simple_diffusion-$name.tar.gz
  show mkdir -p runs || return
  show git archive --format=tar.gz --prefix=simple_diffusion/ --output="$archive" \
    "$revision" || return
  show gcloud compute tpus tpu-vm scp "$archive" "$name:simple_diffusion.tar.gz" \
    --project="$project" --zone="$zone" --worker=all || return
  # Several TPU runtimes come with a Python that is too old.
  on all 'set -e
tar -xzf simple_diffusion.tar.gz
if ! command -v python3.11 python3.12 python3.13 >/dev/null; then
  sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq python3.11-venv
fi
ACCELERATOR=tpu simple_diffusion/launch/setup.sh'
}

check_run() {
  local flag previous="" workdir=""
  for flag in "${flags[@]}"; do
    case $previous/$flag in
      --workdir/*) workdir=$flag ;;
      */--workdir=*) workdir=${flag#*=} ;;
    esac
    previous=$flag
  done
  case $workdir in
    gs://?* | /?*) ;;
    *) fail "--workdir=${workdir:-(missing)} after -- must be gs://BUCKET/PATH or the" \
      "absolute path of a file system that all workers mount" ;;
  esac
}

# In the home folder of each worker, simple_diffusion/ has the code and run/ the log.
supervise=simple_diffusion/launch/supervise.sh

begin() {
  local command
  printf -v command ' %q' ACCELERATOR=tpu "${environment[@]}" "$supervise" \
    start run simple_diffusion/launch/local.sh --distributed "${flags[@]}"
  on all "env$command"
}

follow() {
  on "$1" "$supervise follow run"
}

# Prints the state of the machines in one word; they can run only in state READY.
machine_state() {
  local state
  state=$(queue describe --format='value(state.state)') || return
  if [ "$state" = ACTIVE ]; then
    state=$(show gcloud compute tpus tpu-vm describe "$name" --project="$project" \
      --zone="$zone" --format='value(state)') || return
  fi
  echo "$state"
}

run_states() {
  # A worker without setup does not have the script.
  on all "if [ -x $supervise ]; then $supervise status run; else echo run: none here; fi"
}

# Sets up, starts and checks a run on machines that are READY; returns 0 when complete.
tend() {
  local states
  states=$(run_states) || return 2
  case $states in
    *"none here"*) setup && begin && return 1 || return 2 ;;
    *running*) return 1 ;;
    *"ended with"*)
      ! grep -q "ended with [1-9]" <<<"$states" && return
      fail "the run ended: $(grep "ended with [1-9]" <<<"$states" | sort | uniq -c)." \
        "Its machines still run and cost money; see 'launch/tpu_vm.sh logs', '... delete'"
      ;;
    *) return 2 ;;
  esac
}

watch() {
  local state result failures=0
  while :; do
    result=1
    state=$(machine_state) || state=UNKNOWN
    echo "machines: $state" >&2
    case $state in
      READY) tend && result=0 || result=$? ;;
      SUSPENDED | PREEMPTED | TERMINATED)
        # A preempted request stays in the queue and blocks its name.
        { queue delete --force --quiet && create; } || result=2
        ;;
      FAILED) fail "the request failed; see 'launch/tpu_vm.sh status'" ;;
      UNKNOWN) result=2 ;;
    esac
    case $result in
      0) break ;;
      1) failures=0 ;;
      2) failures=$((failures + 1)) ;;
    esac
    [ "$failures" -lt 10 ] || fail "10 failures in a row; the machines may still cost money"
    sleep "${POLL:-60}"
  done
  echo "complete. The machines still run and cost money: launch/tpu_vm.sh delete" >&2
}

# For --dry-run: each command of watch once, because the state is unknown.
rehearse() {
  machine_state >/dev/null
  setup
  begin
  run_states
  echo "# and after SUSPENDED, PREEMPTED or TERMINATED:" >&2
  queue delete --force --quiet
  create
}

case $action in
  create | setup | run | watch | status | logs | stop | delete) ;;
  *) fail "the first word must be create, setup, run, watch, status, logs, stop or delete" ;;
esac
need --name "$name" "the name of the machines"
need --project "$project" "the Google Cloud project that pays"
need --zone "$zone" "their zone, such as us-west4-a"

case $action in
  create)
    check_machine
    confirm "$(costs)"
    create
    ;;
  setup) setup ;;
  run)
    check_run
    begin
    follow "$worker"
    ;;
  watch)
    check_machine
    check_run
    confirm "$(costs) Preempted machines are requested again, at the same price."
    if [ -n "$dry_run" ]; then rehearse; else watch; fi
    ;;
  status)
    queue describe
    run_states
    ;;
  logs) follow "$worker" ;;
  stop) on all "$supervise stop run" ;;
  delete)
    confirm "Deletes the machines of $name in $zone, project $project, and their disks."
    queue delete --force --quiet
    ;;
esac
