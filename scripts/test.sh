#!/usr/bin/env bash
# Runs the tests, in an environment that it makes if need be, on all cores (-n 0: in one process). Arguments go to
# pytest: bash scripts/test.sh -x -k alpha
#
# Their files, thousands and a gigabyte in all, lie in memory where there is room for them, and are removed at the end.
# TMPDIR=/tmp bash scripts/test.sh writes them to the disk, which takes longer, and keeps them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
room="$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}' || true)"
if [ -z "${TMPDIR:-}" ] && [ "${room:-0}" -ge 6000000 ]; then
    TMPDIR="$(mktemp -d /dev/shm/lfm-tests.XXXXXX)"
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
fi
HF_HUB_OFFLINE=1 "$PYTHON" -m pytest -n auto --dist loadfile "$@"
