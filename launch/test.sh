#!/usr/bin/env bash
# Sets up what is needed, then checks format, lint, types and scripts and runs the tests.
# Arguments go to pytest:
#
#   launch/test.sh
#   launch/test.sh -m 'not slow'
#   launch/test.sh tests/diffusion -k schedule
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements-test.txt

.venv/bin/python -m ruff format --check --quiet .
.venv/bin/python -m ruff check --quiet .
.venv/bin/python -m pyright --pythonpath .venv/bin/python
.venv/bin/shellcheck --external-sources launch/*.sh launch/slurm.sbatch .ci/run
exec .venv/bin/python -m pytest -n auto "$@"
