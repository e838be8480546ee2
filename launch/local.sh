#!/usr/bin/env bash
# Installs the requirements and runs simple_diffusion on this machine; see README.md here.
#
#   launch/local.sh                                       the quickstart
#   launch/local.sh --config configs/digits.py --workdir runs/digits
#   ACCELERATOR=cuda launch/local.sh --config ...
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ $# -eq 0 ]; then
  set -- --config configs/quickstart.py --workdir runs/quickstart
fi
exec .venv/bin/python -m simple_diffusion.main "$@"
