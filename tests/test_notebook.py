"""The notebook runs as it is written, with one epoch and few samples in the place of all, and is stored small."""

import json
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FEW = "raw = type(raw)({split: part.select(range(64)) for split, part in raw.items()})"
NOTEBOOK = Path(__file__).resolve().parent.parent / "scripts" / "quickstart.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of the tests, which draw into files
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("EPOCHS = 16", "EPOCHS = 1")
        cell.source = cell.source.replace('raw = load_benchmark("demo")', 'raw = load_benchmark("demo")\n' + FEW)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum(output.output_type == "display_data" for output in outputs) == 3
    assert "only heard:" in outputs[-1].text
    assert (tmp_path / "outputs" / "notebook" / "lfm").is_dir()


def test_the_notebook_is_stored_with_small_outputs():
    assert NOTEBOOK.stat().st_size < 150_000
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # all, in their order
    assert not any("Traceback" in json.dumps(cell["outputs"]) for cell in code)
    assert not any(output.get("name") == "stderr" for cell in code for output in cell["outputs"]), "warnings name paths"
