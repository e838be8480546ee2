#!/usr/bin/env bash
# Builds the documentation site into site/; a warning, such as a dead link, is an error.
#
#   launch/docs.sh
#   launch/docs.sh serve          shows it at http://127.0.0.1:8000 and follows changes
#
# Other arguments go to mkdocs.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements-docs.txt

# The theme prints a notice about its successor at every build.
export NO_MKDOCS_2_WARNING=1
if [ $# -eq 0 ]; then
  set -- build # without --quiet, which would also hide warnings from --strict
fi
exec .venv/bin/python -m mkdocs "$@" --strict
