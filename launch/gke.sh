#!/usr/bin/env bash
# Runs simple_diffusion on TPU slices of a GKE cluster; see README.md here.
#
#   launch/gke.sh run --name=N --context=C --image=I --accelerator=tpu-v6e-slice \
#     --topology=4x4 --chips-per-host=4 [--slices=2] -- --config ... --workdir gs://...
#   launch/gke.sh status | logs | stop | resume | delete --name=N --context=C
#
# run fills in gke_jobset.yaml and sends it to the cluster. stop lets the run save and
# releases its machines, resume requests them again. Also --dry-run (only show the commands),
# --yes (agree to costs and deletions), --namespace=default, --service-account=default,
# --max-restarts=50, --env=NAME=VALUE (for the run), --slice=0 and --host=0 (for logs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

name="" context="" image="" accelerator="" topology="" chips=""
slices=1 namespace=default service_account=default max_restarts=50
slice=0 host=0 dry_run="" yes="" environment=()

action=${1:-}
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --context=*) context=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --chips-per-host=*) chips=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --namespace=*) namespace=${1#*=} ;;
    --service-account=*) service_account=${1#*=} ;;
    --max-restarts=*) max_restarts=${1#*=} ;;
    --env=*=*) environment+=("${1#--env=}") ;;
    --slice=*) slice=${1#*=} ;;
    --host=*) host=${1#*=} ;;
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

cluster() {
  show kubectl --context="$context" --namespace="$namespace" "$@"
}

# Prints a text as a YAML string.
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

yaml_args() {
  local flag list=""
  for flag in --distributed "${flags[@]}"; do
    list+=", $(quoted "$flag")"
  done
  echo "[${list#, }]"
}

yaml_env() {
  local pair list=""
  for pair in "${environment[@]}"; do
    list+=", {name: $(quoted "${pair%%=*}"), value: $(quoted "${pair#*=}")}"
  done
  echo "[${list#, }]"
}

# Number of machines of one slice; a topology such as 4x4 counts chips along each side.
hosts() {
  local size all=1
  for size in ${topology//x/ }; do
    all=$((all * size))
  done
  [ $((all % chips)) -eq 0 ] ||
    fail "--chips-per-host=$chips must divide the $all chips of --topology=$topology"
  echo $((all / chips))
}

check_run() {
  need --image "$image" "the image of launch/Dockerfile, in a registry that the cluster can read"
  need --accelerator "$accelerator" "that of the node pool, such as tpu-v6e-slice"
  need --topology "$topology" "that of the node pool, such as 4x4"
  need --chips-per-host "$chips" "number of chips of one machine, such as 4"
  [[ $topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] ||
    fail "--topology=$topology must look like 4x4 or 2x2x4"
  [[ $chips/$slices =~ ^[1-9][0-9]*/[1-9][0-9]*$ && $max_restarts =~ ^[0-9]+$ ]] ||
    fail "--chips-per-host, --slices and --max-restarts must be whole numbers"
  [[ " ${flags[*]}" =~ " --workdir"[=\ ]"gs://"[^\ ] ]] ||
    fail "--workdir after -- must be gs://BUCKET/PATH: pods share no folder"
}

manifest() {
  local text machines
  machines=$(hosts) || return
  text=$(<launch/gke_jobset.yaml)
  text=${text#*$'\n\n'} # remove the comment at the top
  text=${text//PLACEHOLDER_NAME/"$(quoted "$name")"}
  text=${text//PLACEHOLDER_MAX_RESTARTS/"$max_restarts"}
  text=${text//PLACEHOLDER_SLICES/"$slices"}
  text=${text//PLACEHOLDER_HOSTS/"$machines"}
  text=${text//PLACEHOLDER_SERVICE_ACCOUNT/"$(quoted "$service_account")"}
  text=${text//PLACEHOLDER_ACCELERATOR/"$(quoted "$accelerator")"}
  text=${text//PLACEHOLDER_TOPOLOGY/"$(quoted "$topology")"}
  text=${text//PLACEHOLDER_IMAGE/"$(quoted "$image")"}
  text=${text//PLACEHOLDER_CHIPS/"$chips"}
  text=${text//PLACEHOLDER_ENV/"$(yaml_env)"}
  text=${text//PLACEHOLDER_ARGS/"$(yaml_args)"}
  echo "$text"
}

suspend() {
  cluster patch jobset "$name" --type=merge --patch="{\"spec\": {\"suspend\": $1}}"
}

case $action in
  run | status | logs | stop | resume | delete) ;;
  *) fail "the first word must be run, status, logs, stop, resume or delete" ;;
esac
need --name "$name" "the name of the run"
need --context "$context" "the cluster; kubectl config get-contexts lists all"

costs="COSTS MONEY: TPU nodes that the cluster adds for this run, until the run ends or is stopped;
node pools without autoscaling cost money until they are deleted."
case $action in
  run)
    check_run
    text=$(manifest)
    echo "$text"
    confirm "$costs"
    cluster create --filename=- <<<"$text"
    ;;
  status)
    cluster get jobset "$name"
    cluster get pods --selector="jobset.sigs.k8s.io/jobset-name=$name" --output=wide
    ;;
  logs)
    selector=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=$slice
    cluster logs --follow --tail=100 \
      --selector="$selector,batch.kubernetes.io/job-completion-index=$host"
    ;;
  stop) suspend true ;;
  resume)
    confirm "$costs"
    suspend false
    ;;
  delete)
    confirm "Deletes the run $name from the cluster; its workdir stays."
    cluster delete jobset "$name"
    ;;
esac
