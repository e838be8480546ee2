#!/usr/bin/env bash
# Installs the requirements, then checks format, lint, types and scripts and runs tests.
#
#   launch/test.sh                            quick: without the tests marked slow
#   launch/test.sh --all                      all tests, as CI runs them
#   launch/test.sh tests/diffusion -k schedule
#
# Other arguments go to pytest. Compiled programs are kept in ~/.cache/simple_diffusion, so
# that a second run compiles only what has changed.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements-test.txt

selection=(-m "not slow")
arguments=()
for argument; do
  if [ "$argument" = --all ]; then selection=(); else arguments+=("$argument"); fi
done

.venv/bin/python -m ruff format --check --quiet .
.venv/bin/python -m ruff check --quiet .
.venv/bin/python -m pyright --pythonpath .venv/bin/python
.venv/bin/shellcheck --external-sources launch/*.sh launch/slurm.sbatch .ci/run
# A file's tests share what they train: they stay on one worker.
exec .venv/bin/python -m pytest -n auto --dist loadfile --durations 10 \
  ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
