"""Every Python block of the README runs as written, in order, as a newcomer would paste them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_python_blocks_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, Python block {number}", "exec"), names)
        if number == 1:  # before other training arguments make a new state of accelerate
            metrics = names["trainer"].evaluate(names["data"]["test"])
            assert metrics["eval_accuracy"] > 0.3  # ten classes
    assert (tmp_path / "outputs" / "mine" / "model.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "fused:" in printed
    assert "sight alone:" in printed
    assert names["args"].method == {"name": "ogm", "alpha": 0.8}
    assert names["config"].fusion == "concat"


def test_files_and_programs_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"(?:scripts|tests|data|trainer|modeling_lfm)/[\w/]+\.(?:py|sh|yaml)", text):
        assert (ROOT / path).is_file(), path
