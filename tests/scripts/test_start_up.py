"""What is imported for a word of help: not what takes seconds to import."""

import json
import re
import subprocess
import sys

import pytest

from .conftest import ROOT

PROGRAMS = sorted(f.stem for f in (ROOT / "scripts").glob("*.py") if "\ndef main(" in f.read_text(encoding="utf-8"))
SLOW = ("torch", "datasets", "timm", "sklearn", "scipy", "matplotlib", "accelerate")
IMPORT = re.compile(r"^\s*(?:from|import) [^\n]*", re.MULTILINE)
WATCH = """
import runpy, sys
path, module = sys.argv[1:]
sys.path[0] = path.rpartition("/")[0]  # as Python itself does
for start, what in ((runpy.run_path, path), (runpy.run_module, module)):
    sys.argv = [what, "--help"]
    try:
        start(what, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    print("=====")
"""
IMPORTED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def imported(code, *words):
    """Top-level names that Python has imported after running `code`, and what that printed."""
    command = [sys.executable, "-c", f"{code}\n{IMPORTED}", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, names = done.stdout.rstrip().rpartition("\n")
    return set(json.loads(names)), printed


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_imports_nothing_slow_and_tells_how(name):
    """Started either way: `python scripts/NAME.py` and `python -m modeling_lfm.scripts.NAME`."""
    names, printed = imported(WATCH, str(ROOT / "scripts" / f"{name}.py"), f"modeling_lfm.scripts.{name}")
    first, second, _ = printed.split("=====")
    assert "usage:" in first
    assert f"{name}.py" in first
    assert first.strip() == second.strip()
    assert not names & set(SLOW)


def test_all_programs_are_seen():
    assert {"train", "eval", "predict", "prepare_data", "reproduce", "quickstart", "benchmark"} <= set(PROGRAMS)


def test_no_program_imports_another():
    names = "|".join(PROGRAMS)
    for file in (ROOT / "scripts").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(rf"scripts(\.| import )({names})\b", "".join(IMPORT.findall(text))), file.name


@pytest.mark.parametrize("name", ["train", "eval", "predict", "quickstart"])
def test_programs_are_short(name):
    assert len((ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 150
