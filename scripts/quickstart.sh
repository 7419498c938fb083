#!/usr/bin/env bash
# The main job on the built-in data, with nothing to download but packages: trains plain fusion and LFM, compares them.
# Arguments go to scripts/quickstart.py, which tells more: bash scripts/quickstart.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
HF_HUB_OFFLINE=1 exec "$PYTHON" scripts/quickstart.py "$@"
