# shellcheck shell=bash
# The launch scripts source this file, with `set -euo pipefail`. It installs a virtual
# environment and changes to the root of the repository.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

accelerator=${ACCELERATOR:-cpu}
case $accelerator in
  cpu) extra=() ;;
  cuda) extra=("jax[cuda13]") ;;
  # Orbax needs google-cloud-storage to list checkpoints in gs:// buckets.
  tpu) extra=("jax[tpu]" google-cloud-storage) ;;
  *)
    echo "ACCELERATOR=$accelerator must be cpu, cuda or tpu." >&2
    exit 2
    ;;
esac

# Prints the first Python that can create the environment. TensorFlow has no wheels for
# versions after 3.13 yet. Run each candidate, because a name may be a broken shim.
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
Python 3.11, 3.12 or 3.13 with the venv module is required (on Debian and Ubuntu: the
package python3-venv). Tried:
${seen}Install one, or set its path: PYTHON=/path/to/python3.12 $0
TEXT
  exit 1
}

# install FILE [PACKAGE...]: updates .venv to a requirements file. The stamp contains all
# that the result depends on. It is written last, so that an interrupted installation is
# repeated. With INSTALL=no missing packages are an error: accelerators would wait.
install() {
  local file=$1 stamp requirements python
  shift
  stamp=.venv/.installed-${file%.txt}-$accelerator
  requirements=$(cat "$file" constraints.txt && echo "$*")
  if [ -x .venv/bin/python ] && [ "$requirements" = "$(cat "$stamp" 2>/dev/null)" ]; then
    return
  fi
  if [ "${INSTALL:-yes}" = no ]; then
    echo "error: $PWD/.venv does not match $file and constraints.txt;" \
      "first run ACCELERATOR=$accelerator launch/setup.sh" >&2
    exit 1
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear .venv
  fi
  echo "Installing $file${*:+ and $*} into .venv; this is done once and takes some minutes." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --requirement "$file" "$@" --constraint constraints.txt
  echo "$requirements" >"$stamp"
}

# The long form is for bash 3, where an empty list counts as unset.
install requirements.txt ${extra[@]+"${extra[@]}"}

if [ "$accelerator" = cpu ]; then
  # Use the CPU even if another ACCELERATOR was installed before.
  export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
  # XLA allocates its temporary memory again in each step. Huge pages, which must be
  # requested before the process starts, avoid most of the time for page faults.
  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1${GLIBC_TUNABLES:+:$GLIBC_TUNABLES}
  # The default of the pinned jaxlib without convolutions: its newer kernels take two to
  # three times as long for the gradient of a convolution kernel.
  kernels=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT
  export XLA_FLAGS="--xla_cpu_experimental_ynn_fusion_type=$kernels ${XLA_FLAGS:-}"
fi
# TensorFlow only reads data here, so its messages about processors do not matter. The
# message about oneDNN appears at every log level unless oneDNN is off.
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export TF_ENABLE_ONEDNN_OPTS=${TF_ENABLE_ONEDNN_OPTS:-0}
