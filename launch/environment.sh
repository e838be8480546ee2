# shellcheck shell=bash
# What the launch scripts share: a virtual environment that holds what they ask for.
# They source it with `set -euo pipefail` on, and go on in the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

accelerator=${ACCELERATOR:-cpu}
case $accelerator in
  cpu) extra=() ;;
  cuda) extra=("jax[cuda13]") ;;
  # Orbax lists checkpoints in gs:// buckets, where those of TPUs lie, with the second.
  tpu) extra=("jax[tpu]" google-cloud-storage) ;;
  *)
    echo "ACCELERATOR=$accelerator must be cpu, cuda or tpu." >&2
    exit 2
    ;;
esac

# Prints the first Python that can make the environment. TensorFlow has no wheels for
# versions past 3.13 yet. Each is run, since a name may be a shim that leads nowhere.
find_python() {
  local candidate seen=""
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, ensurepip, venv
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
    seen+="  $candidate: $("$candidate" --version 2>&1 | head -n 1 || true)"$'\n'
    [ -z "${PYTHON:-}" ] || break
  done
  cat >&2 <<TEXT
Python 3.11, 3.12 or 3.13 with the venv module is needed (Debian and Ubuntu keep that
module in the package python3-venv). Tried:
${seen}Install one, or name one: PYTHON=/path/to/python3.12 $0
TEXT
  exit 1
}

# install FILE [PACKAGE...]: brings .venv up to a requirements file. The stamp is a copy of
# all that the result depends on, written last, so that a run cut short is made up for.
# With INSTALL=no it is an error if anything is missing: where accelerators would wait.
install() {
  local file=$1 stamp wanted python
  shift
  stamp=.venv/.installed-${file%.txt}-$accelerator
  wanted=$(cat "$file" constraints.txt && echo "$*")
  if [ -x .venv/bin/python ] && [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ]; then
    return
  fi
  if [ "${INSTALL:-yes}" = no ]; then
    echo "error: $PWD/.venv is not what $file and constraints.txt ask for;" \
      "first run ACCELERATOR=$accelerator launch/setup.sh" >&2
    exit 1
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear .venv
  fi
  echo "Installing $file${*:+ and $*} into .venv, once; this can take some minutes." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement "$file" "$@" --constraint constraints.txt
  echo "$wanted" >"$stamp"
}

# The long form is for bash 3, to which an empty list is an unset one.
install requirements.txt ${extra[@]+"${extra[@]}"}

if [ "$accelerator" = cpu ]; then
  # Not even where another ACCELERATOR was installed before.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  # XLA takes its temporary memory anew in each step: with huge pages, which must be
  # asked for before the process starts, the page faults no longer decide its time.
  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}
  # Without the convolutions in this list, which is the default of the pinned jaxlib:
  # its newer kernels take two to three times as long for the gradient of a kernel.
  kernels=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT
  export XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=$kernels ${XLA_FLAGS:-}"
fi
# TensorFlow only reads data here: its notes on processors concern other uses. The one on
# oneDNN, which speeds up products, comes at any log level and goes when that is off.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export TF_ENABLE_ONEDNN_OPTS=${TF_ENABLE_ONEDNN_OPTS:-0}
