"""The notebook runs as it is written, with one epoch and few samples in the place of all, and is stored small."""

import json
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from tests.scripts.forks import start

FEW = "raw = type(raw)({split: part.select(range(64)) for split, part in raw.items()})"
NOTEBOOK = Path(__file__).resolve().parent.parent / "scripts" / "quickstart.ipynb"


class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        """Pictures within the page need none."""


def code_cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cells(file):
    """Run them as a notebook does, and write what each shows into `file`: its text, and the types of its pictures."""
    shell, shown = Shell.instance(), []
    shell.enable_matplotlib("inline")
    for cell in code_cells():
        source = "".join(cell["source"]).replace("EPOCHS = 16", "EPOCHS = 1")
        source = source.replace('raw = load_benchmark("demo")', 'raw = load_benchmark("demo")\n' + FEW)
        with capture_output() as output:
            result = shell.run_cell(source)
        result.raise_error()
        shown.append([output.stdout, [kind for part in output.outputs for kind in part.data]])
    file.write_text(json.dumps(shown))


def test_the_notebook_runs(tmp_path):
    process = start(tmp_path / "log", run_cells, tmp_path / "shown", cwd=tmp_path, MPLBACKEND="")
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    shown = json.loads((tmp_path / "shown").read_text())
    assert sum(kinds.count("image/png") for _, kinds in shown) == 3
    assert "only heard:" in shown[-1][0]
    assert (tmp_path / "outputs" / "notebook" / "lfm").is_dir()


def test_the_notebook_is_stored_with_small_outputs():
    assert NOTEBOOK.stat().st_size < 150_000
    code = code_cells()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # all, in their order
    assert not any("Traceback" in json.dumps(cell["outputs"]) for cell in code)
    assert not any(output.get("name") == "stderr" for cell in code for output in cell["outputs"]), "warnings name paths"
