#!/usr/bin/env bash
# Installs what a run needs, and does nothing else: for log-in nodes, images, workers.
#
#   ACCELERATOR=cuda launch/setup.sh
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
echo "ready: .venv holds simple_diffusion's requirements for $accelerator" >&2
