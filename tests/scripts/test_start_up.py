"""What is imported for a word of help: not what takes seconds to import."""

import json
import re
import subprocess
import sys

import pytest

from .conftest import ROOT

PROGRAMS = sorted(f.stem for f in (ROOT / "scripts").glob("*.py") if not f.stem.startswith("_"))
SLOW = ("torch", "datasets", "timm", "sklearn", "scipy", "matplotlib", "accelerate")
IMPORT = re.compile(r"^\s*(?:from|import) [^\n]*", re.MULTILINE)
WATCH = """
import json, runpy, sys
folder, *names = sys.argv[1:]
sys.path[0] = folder  # as Python itself does
for name in names:
    for start, what in ((runpy.run_path, f"{folder}/{name}.py"), (runpy.run_module, f"modeling_lfm.scripts.{name}")):
        sys.argv = [what, "--help"]
        try:
            start(what, run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code
        print("=====")
    print(json.dumps(sorted({module.partition(".")[0] for module in sys.modules})))
    print("=====")
"""


@pytest.fixture(scope="module")
def helps():
    """What each program prints for `--help`, started either way, and what is imported by then, all in one process."""
    command = [sys.executable, "-c", WATCH, str(ROOT / "scripts"), *PROGRAMS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("=====\n")
    return {name: parts[3 * number : 3 * number + 3] for number, name in enumerate(PROGRAMS)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_imports_nothing_slow_and_tells_how(name, helps):
    """Started either way: `python scripts/NAME.py` and `python -m modeling_lfm.scripts.NAME`."""
    first, second, imported = helps[name]
    assert "usage:" in first
    assert f"{name}.py" in first
    assert first.strip() == second.strip()
    assert not set(json.loads(imported)) & set(SLOW)


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
