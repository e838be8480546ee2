#!/usr/bin/env bash
# Only installs the requirements of a run: for log-in nodes, images and workers.
#
#   ACCELERATOR=cuda launch/setup.sh
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
echo "ready: .venv holds simple_diffusion's requirements for $accelerator" >&2
