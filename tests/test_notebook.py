"""The notebook runs as it is written, with one epoch and few samples in the place of all, and is stored small."""

import json
from multiprocessing import get_context
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

FEW = "raw = type(raw)({split: part.select(range(64)) for split, part in raw.items()})"
NOTEBOOK = Path(__file__).resolve().parent.parent / "scripts" / "quickstart.ipynb"


class Shell(InteractiveShell):
    """What a kernel runs the cells in, without windows."""

    def enable_gui(self, gui=None):
        """None is needed for pictures in the notebook."""


def read_code():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def run_cells(pictures):
    """Run the cells one after the other, and write the number of pictures they showed and what the last one printed."""
    shell, shown = Shell.instance(), 0
    shell.run_line_magic("matplotlib", "inline")
    for cell in read_code():
        source = "".join(cell["source"]).replace("EPOCHS = 16", "EPOCHS = 1")
        source = source.replace('raw = load_benchmark("demo")', 'raw = load_benchmark("demo")\n' + FEW)
        with capture_output() as captured:
            result = shell.run_cell(source)
        result.raise_error()
        shown += sum("image/png" in output.data for output in captured.outputs)
    pictures.write_text(json.dumps([shown, captured.stdout]))


def test_the_notebook_runs(tmp_path, monkeypatch):
    """In a fork, where all is imported, and whose settings are nobody else's."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of the tests, which draw into files
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    process = get_context("fork").Process(target=run_cells, args=(tmp_path / "told.json",))
    process.start()
    process.join()
    assert process.exitcode == 0
    shown, printed = json.loads((tmp_path / "told.json").read_text())
    assert shown == 3
    assert "only heard:" in printed
    assert (tmp_path / "outputs" / "notebook" / "lfm").is_dir()


def test_the_notebook_is_stored_with_small_outputs():
    assert NOTEBOOK.stat().st_size < 150_000
    code = read_code()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # all, in their order
    assert not any("Traceback" in json.dumps(cell["outputs"]) for cell in code)
    assert not any(output.get("name") == "stderr" for cell in code for output in cell["outputs"]), "warnings name paths"
