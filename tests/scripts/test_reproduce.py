"""The table of experiments: runs each cell once, goes on after a kill, and chooses on validation data."""

import json

import pytest

from modeling_lfm.scripts import reproduce

TABLE = """
base: demo
settings:
  small: {max_train_samples: 64, max_eval_samples: 40, max_test_samples: 40}
rows:
  image only: {alpha: constant, only: [image]}
  JS, learned: {alpha: learned, alpha_holdout: 0}
"""


def test_runs_each_cell_once_and_goes_on_after_a_kill(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.yaml").write_text(TABLE)
    command = ["table.yaml", "--seeds", "3", "--output", "runs.jsonl", "--num_train_epochs", "2"]
    reproduce.main(command)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    records = {record["row"]: record for record in map(json.loads, lines)}
    assert set(records) == {"image only", "JS, learned"}
    assert set(records["image only"]["test"]) == {f"{n}{m}" for n in ("", "image_") for m in reproduce.METRICS}
    assert records["JS, learned"]["alpha"][0] == 0.95
    assert len(records["JS, learned"]["alpha"]) == 2

    (tmp_path / "runs.jsonl").write_text(lines[0] + "\n" + lines[1][:50])  # killed while it wrote
    assert len(reproduce.read_records(tmp_path / "runs.jsonl")) == 1
    capsys.readouterr()
    reproduce.main(command)
    again = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert again[0] == lines[0]
    one, other = json.loads(lines[1]), json.loads(again[1])
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    printed = capsys.readouterr().out
    assert "[1/1]" in printed
    assert "| image only |" in printed


def test_mappings_are_changed_key_by_key_and_the_base_is_not():
    base = {
        "modalities": {"a": {"name": "x"}, "b": {"name": "y"}},
        "benchmark_options": {"seed": 1},
        "alpha": "learned",
    }
    row = {"only": ["b"], "alpha": "constant", "constant_of_the_default": True}
    config = reproduce.configure(base, {"benchmark_options": {"noise": 2}}, row, 5, {"modalities.b.name": ["z"]})
    assert config == {
        "modalities": {"b": {"name": "z"}},
        "benchmark_options": {"seed": 1, "noise": 2},
        "alpha": "constant",
        "seed": 5,
    }
    assert base["benchmark_options"] == {"seed": 1}


def test_the_best_constant_is_chosen_on_validation_data():
    rows = {"0": {"constant_of_the_default": True}, "0.9": {"constant_of_the_default": True}, "learned": {}}
    values = {"0": (0.7, 0.99), "0.9": (0.8, 0.6), "learned": (0.9, 0.5)}
    records = [
        {"setting": "s", "row": row, "validation": {"accuracy": v}, "test": {"accuracy": t}}
        for row, (v, t) in values.items()
    ]
    assert reproduce.best_constant(records, rows) == {"s": ("0.9", 0.6)}


def test_what_the_table_lacks_is_named(tmp_path):
    (tmp_path / "table.yaml").write_text(TABLE)
    with pytest.raises(ValueError, match="unknown rows"):
        reproduce.main([str(tmp_path / "table.yaml"), "--rows", "concat"])
    (tmp_path / "bad.yaml").write_text("base: demo\n")
    with pytest.raises(ValueError, match="rows, settings"):
        reproduce.main([str(tmp_path / "bad.yaml")])
    with pytest.raises(FileNotFoundError):
        reproduce.main(["no_such_table"])
