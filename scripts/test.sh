#!/usr/bin/env bash
# Runs the tests, in an environment that it makes if need be, on all cores (-n 0: in one process). Arguments go to
# pytest: bash scripts/test.sh -x -k alpha
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
HF_HUB_OFFLINE=1 exec "$PYTHON" -m pytest -n auto --dist loadfile "$@"
