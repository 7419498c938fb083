"""The blocks of CONTRIBUTING.md run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read_blocks():
    """The Python blocks of CONTRIBUTING.md by the heading that they stand under, with what is between (`dict`)."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {
        heading: "\n\n".join(blocks)
        for heading, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        if (blocks := re.findall(r"^ *```python\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL))
    }


PROGRAM = """
import runpy, sys, traceback
failed = 0
for file in sys.argv[1:]:
    try:
        runpy.run_path(file, run_name=file.rpartition("/")[2].removesuffix(".py"))
    except BaseException:
        print(file)
        traceback.print_exc(file=sys.stdout)
        failed += 1
sys.exit(failed)
"""


def test_each_block_runs_in_a_namespace_of_its_own(tmp_path):
    files = []
    for heading, block in read_blocks().items():
        files.append(tmp_path / (re.sub(r"\W+", "_", heading.lower()) + ".py"))
        files[-1].write_text(block, encoding="utf-8")
        assert len(block.splitlines()) <= 30, f"{heading}: too long for an example"
    assert len(files) >= 3
    command = [sys.executable, "-c", PROGRAM, *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
