"""Every program by one command: `lfm PROGRAM ...` is `python scripts/PROGRAM.py ...`, wherever one is."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common.console import run, say

NAMES = {"prepare": "prepare_data", "push": "push_to_hub"}  # where a shorter one will do


def list_programs():
    """What each program does (`dict[str, str]` by name): the first line of its docstring."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    lines = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    short = {name: word for word, name in NAMES.items()}
    return {short.get(name, name): text.splitlines()[0] for name, text in lines.items()}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    programs = list_programs()
    if argv[:1] in ([], ["-h"], ["--help"]):
        lines = [f"  lfm {name:<12}{text}" for name, text in programs.items()]
        return say("\n".join(["usage: lfm PROGRAM ... (lfm PROGRAM --help tells more)", "", *lines]))
    name, *rest = argv
    known = {**NAMES, **{name: NAMES.get(name, name) for name in programs}, **{n: n for n in NAMES.values()}}
    if name not in known:
        raise ValueError(f"there is no program {name!r}; {suggest(name, programs)}")
    import_module(f"modeling_lfm.scripts.{known[name]}").main(rest)


def command():
    """What `lfm` calls: `main` with the words of the command line, and errors without a traceback."""
    run(main)


if __name__ == "__main__":
    command()
