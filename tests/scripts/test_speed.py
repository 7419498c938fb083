"""Measurements of speed on their smallest sizes, and their arithmetic on made-up numbers. No test looks at a time."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from modeling_lfm.scripts import benchmark
from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.speed import gpu, models, processes
from modeling_lfm.scripts.speed.rows import Row, Setup, format_table, ratios
from tests.modeling.fusions import vit


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", [0.98], least=0.97), "met"),
        (Row("a", [0.97], least=0.97), "met"),
        (Row("a", [0.93], least=0.97), "missed by 0.040"),
        (Row("a", [2.0], "%", most=2), "met"),
        (Row("a", [12.5], "%", most=2), "missed by 10.5 %"),
        (Row("a", [0.99], least=0.97, right=False), "wrong result"),
        (Row("a", [3.0]), ""),
    ],
)
def test_verdicts(row, verdict):
    assert row.cells()[3] == verdict


def test_ratios_are_taken_within_rounds():
    """A machine that slows down in the middle changes no ratio; a median leaves one bad round out."""
    row = Row("a | b", ratios([1.0, 1.1, 10.0, 11.0, 90.0], [2.0, 2.2, 20.0, 22.0, 30.0]), least=0.97)
    assert row.measured == pytest.approx(0.5)
    table = format_table([row, Row("named", [4.0, 1.0, 3.0, 2.0], "steps")]).splitlines()
    assert table[2] == "| a / b | at least 0.970 | 0.500 (0.500 to 0.500) | missed by 0.470 |  |  |"
    assert table[3] == "| named |  | 2.50 steps (1.75 to 3.25) |  |  |  |"


def test_what_is_compared_takes_turns():
    calls = []
    times = Setup().take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3, seconds=1e-4)
    order = "".join(calls)
    assert order.count("ab") == 3
    assert order.count("ba") == 2
    assert [len(seconds) for seconds in times.values()] == [3, 3]


def start_here(*words, **environment):
    """In place of processes: the measured work alone, in this one, and for the later ones its numbers."""
    file, first = Path(words[-3]), Path(words[-3]).with_name("one")
    if first.is_file():
        shutil.copy(first, file)
    else:
        processes.work(*words[-3:])


@pytest.mark.parametrize("name", benchmark.MEASUREMENTS)
def test_the_measurements_run(name, tmp_path, capsys, monkeypatch):
    """On its smallest sizes each has numbers, and nothing that was timed was wrong."""
    monkeypatch.setattr(processes, "start", start_here)  # each import of torch and transformers takes seconds
    if name != "methods":  # of which some need feature maps
        two = {"audio": vit(32), "image": vit(32)}, dict.fromkeys(("audio", "image"), (1, 32, 32))
        monkeypatch.setattr(models, "pair", lambda setup, side: two)
        monkeypatch.setattr(gpu, "EAGER", ("fp32", "bf16, channels_last"))
        monkeypatch.setattr(gpu, "STEPS", (1, 2))
    benchmark.main(["--only", name, "--quick", "--json", str(tmp_path / "speed.json")])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert list(report) == [name]
    assert {"processor", "cores", "threads", "torch", "transformers", "seconds"} <= set(report[name]["machine"])
    printed = capsys.readouterr().out
    for row in report[name]["rows"]:
        assert row["values"], row
        assert row["right"] is not False, row
        assert f"| {row['what'].replace('|', '/')} |" in printed


def test_a_measurement_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    files = ["--json", str(tmp_path / "speed.json"), "--markdown", str(tmp_path / "speed.md")]
    monkeypatch.setattr(benchmark, "MEASUREMENTS", {"one": ("One", "rows.none"), "two": ("Two", "rows.two")})
    monkeypatch.setattr("modeling_lfm.scripts.speed.rows.two", lambda setup: [Row("two", [7.0])], raising=False)
    with pytest.raises(SystemExit, match="failed: one: AttributeError"):  # there is no such function
        benchmark.main([*files, "--only", "one", "two"])
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["one"]["rows"] == []
    assert report["two"]["rows"][0]["values"] == [7.0]
    assert "| two |  | 7.00 |" in (tmp_path / "speed.md").read_text()
    assert "Traceback" in capsys.readouterr().err


def test_what_is_measured_is_written_at_once(tmp_path, monkeypatch):
    file = tmp_path / "speed.json"

    def measure(setup):
        yield Row("one", [1.0])
        assert json.loads(file.read_text())["one"]["rows"][0]["what"] == "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "MEASUREMENTS", {"one": ("One", "rows.one")})
    monkeypatch.setattr("modeling_lfm.scripts.speed.rows.one", measure, raising=False)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["--only", "one", "--json", str(file)])
    assert [row["values"] for row in json.loads(file.read_text())["one"]["rows"]] == [[1.0]]


def test_a_row_for_which_memory_is_too_small_is_told():
    def measure(what, error):
        yield Row(what, [1.0])
        raise error

    found = list(gpu.guarded("big", measure, torch.OutOfMemoryError("2 GiB")))
    assert [row.values for row in found] == [[1.0], []]
    assert format_table(found).splitlines()[-1] == "| big |  | - |  |  | failed: out of memory |"
    assert "ValueError: too odd" in list(gpu.guarded("odd", measure, ValueError("too odd")))[1].note


def test_waits_for_a_device_are_counted():
    def wait():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    assert gpu.count_waits(wait, "cpu") == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("argv", [["--suite", "gpu"], ["--device", "cuda"]])
def test_where_no_device_is_one_sentence_says_so(argv, capsys):
    with pytest.raises(SystemExit):
        run(lambda: benchmark.main(argv))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{' '.join(argv)} needs a CUDA device; torch sees none." in line


@pytest.mark.parametrize("argv", [["--device", "tpu"], ["--only", "spede"], ["--suite", "tpu"], ["--fast"]])
def test_what_is_wrong_is_named(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        run(lambda: benchmark.main(argv))
    assert stop.value.code == 2
    assert argv[-1].lstrip("-") in capsys.readouterr().err
