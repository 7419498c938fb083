# Sourced by test.sh and quickstart.sh: makes or reuses the Python environment, and sets ROOT and PYTHON.
#
# The environment is .venv in the repository, or the folder that LFM_VENV names. The package is installed into it
# when it was not yet, or when pyproject.toml has changed since: as links to its files (editable_mode=strict), which type
# checkers and editors follow, and which are made anew when a file comes or goes. An LFM_VENV that was prepared by other means, in which
# this checkout is installed with its test tools, is used as it is.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON=""

_fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# Shims and distributions without ensurepip exist, so each candidate has to prove itself.
_find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    _fail "no Python 3.10 or later with venv on the PATH. Install one, such as: apt install python3 python3-venv, \
brew install python, or from python.org."
}

_is_installed() {
    (cd / && "$PYTHON" -c '
import os, sys
import modeling_lfm, mypy, pytest, ruff, xdist
home = os.path.dirname(os.path.dirname(os.path.realpath(modeling_lfm.__file__)))
sys.exit(not os.path.samefile(home, sys.argv[1]))
' "$ROOT") >/dev/null 2>&1
}

_install() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict "$@" \
        </dev/null >&2 || _fail "the installation failed; what pip said stands above."
}

_prepare() {
    local venv="${LFM_VENV:-$ROOT/.venv}" stamp wanted files
    unset PYTHONHOME PYTHONPATH
    if [ ! -x "$venv/bin/python" ]; then
        local base
        base="$(_find_python)" || exit 1
        echo "Making an environment in $venv with $("$base" --version) ..." >&2
        "$base" -m venv "$venv" || _fail "could not make an environment in $venv."
    fi
    PYTHON="$(cd "$venv/bin" && pwd)/python"
    stamp="$venv/lfm-installed"
    wanted="$(cd "$ROOT" && pwd -P) $(cksum <"$ROOT/pyproject.toml")"
    files="$(cd "$ROOT" && find modeling_lfm trainer data scripts model_cards -name '*.py' -o -name '*.yaml' |
        sort | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted $files" ] && return 0
    if [ -n "${LFM_VENV:-}" ] && [ ! -e "$stamp" ] && _is_installed; then
        return 0
    fi
    if grep -qF "$wanted " "$stamp" 2>/dev/null; then
        echo "Files came or went: linking the package anew ..." >&2
        _install --no-deps --no-build-isolation -e "$ROOT"
    else
        echo "Installing the package and what it needs (the first time takes minutes: PyTorch is large) ..." >&2
        _install -e "$ROOT[test]"
    fi
    local links
    for links in "$ROOT"/build/__editable__*/modeling_lfm/scripts; do # no wheel holds scripts/speed
        [ ! -d "$links" ] || ln -sfn "$ROOT/scripts/speed" "$links/speed"
    done
    printf '%s\n' "$wanted $files" >"$stamp"
}

_prepare
