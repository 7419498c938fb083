"""Start-up: seconds of every program's --help, and of importing the package."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OURS = "from modeling_lfm import LfmForMultimodalClassification"
THEIRS = "from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel"


def programs():
    """Names (`list[str]`) of the programs that have a `main`."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if "\ndef main(" in file.read_text(encoding="utf-8"))


def measure(bench):
    """See `benchmark_suite`."""
    names = programs()[:2] if bench.quick else programs()
    rounds = 1 if bench.quick else 5
    functions = {name: lambda name=name: start(str(FOLDER / f"{name}.py"), "--help") for name in names}
    times = bench.alternate(functions, rounds)
    spreads = {name: times.of(name) for name in names}
    bench.details["help"] = {name: spread.median for name, spread in spreads.items()}
    slowest = max(names, key=lambda name: spreads[name].median)
    yield spreads[slowest].row(f"{slowest}.py --help, the slowest of {len(names)}", goal="slowest --help")


def start(*words):
    """Run Python; `subprocess.CompletedProcess`."""
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
