"""Start-up: seconds of every program's --help, and of importing the package."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
ROUNDS = 3
IMPORTS = {
    "ours": "import modeling_lfm",
    "theirs": "from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel",
    "model": "from modeling_lfm import LfmForMultimodalClassification",
    "parts": "import timm; from transformers import AutoModel, AutoProcessor, CLIPTextModelWithProjection",
}


def list_programs():
    """Names (`list[str]`) of the programs: the files beside this one that have a `main` and a HELP."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.py")}
    return sorted(name for name, text in texts.items() if "\ndef main(" in text and "show_help(" in text)


def start(*words):
    """Run Python with these words, and wait."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def measure(bench):
    """See `benchmark_suite`."""
    names, rounds, warm_up = list_programs(), ROUNDS, 1
    if bench.quick:
        names, rounds, warm_up = names[:1], 1, 0
    functions = {name: lambda name=name: start(str(FOLDER / f"{name}.py"), "--help") for name in names}
    times = bench.alternate(functions, rounds, warm_up)
    spreads = {name: times.of(name) for name in names}
    bench.details["help_seconds"] = {name: spread.median for name, spread in spreads.items()}
    slowest = max(names, key=lambda name: spreads[name].median)
    yield spreads[slowest].row(f"{slowest}.py --help, the slowest of {len(names)}", goal="slowest --help")
    chosen = {"ours": IMPORTS["ours"], "theirs": "import transformers"} if bench.quick else IMPORTS
    functions = {name: lambda code=code: start("-c", code) for name, code in chosen.items()}
    times = bench.alternate(functions, rounds, warm_up)
    bench.details["import_seconds"] = {chosen[name]: times.of(name).median for name in chosen}
    yield times.ratio("ours", "theirs").row(
        "import modeling_lfm over transformers' Auto classes",
        goal="import modeling_lfm over transformers' AutoModel",
        note=f"{times.of('ours').median:.2f} s and {times.of('theirs').median:.2f} s, with the interpreter's own start",
    )
    if not bench.quick:
        yield times.ratio("model", "parts").row(
            "the model's class over timm and those of transformers that it is made of",
            note=f"{times.of('model').median:.2f} s and {times.of('parts').median:.2f} s",
        )
