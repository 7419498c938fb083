"""The benchmark on its smallest sizes, and its arithmetic on made-up numbers. No test looks at a time."""

import json
import re

import pytest

from modeling_lfm.scripts import benchmark
from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.speed.suite import (
    MEASUREMENTS,
    Bench,
    Goal,
    Measurement,
    Row,
    Spread,
    Times,
    judge,
    show,
)

HIGH, LOW = Goal("speed", "at least", 0.97), Goal("share", "at most", 2.0, "%")
GOALS = {goal.name: goal for goal in (HIGH, LOW)}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", 0.98, "speed"), "met"),
        (Row("a", 0.97, "speed"), "met"),
        (Row("a", 0.93, "speed"), "missed by 0.040"),
        (Row("a", 2.0, "share"), "met"),
        (Row("a", 12.5, "share"), "missed by 10.5 %"),
        (Row("a", 0.99, "speed", correct=True), "met"),
        (Row("a", 0.99, "speed", correct=False), "wrong result"),
        (Row("a", 3.0, correct=False), "wrong result"),
        (Row("a", None, "speed"), "not measured"),
        (Row("a", float("nan"), "speed"), "not measured"),
        (Row("a", 3.0), ""),
    ],
)
def test_verdicts(row, verdict):
    assert judge(row, GOALS) == verdict


def test_a_goal_has_one_of_two_ways():
    with pytest.raises(ValueError, match="one of at least, at most, got 'below'"):
        Goal("speed", "below", 1.0)
    assert str(HIGH) == "at least 0.970"
    assert str(LOW) == "at most 2.00 %"
    assert [show(value, "s") for value in (123.4, 12.34, 1.234, 0.01234, None)] == [
        "123 s",
        "12.3 s",
        "1.23 s",
        "0.012 s",
        "-",
    ]


def test_ratios_are_taken_within_rounds():
    """A machine that slows down in the middle changes no ratio; a median leaves one bad round out."""
    times = Times({"one": [1.0, 1.1, 10.0, 11.0, 90.0], "other": [2.0, 2.2, 20.0, 22.0, 30.0]})
    ratio = times.ratio("one", "other")
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert times.of("one").median == 10.0
    assert Spread.of([4.0, 1.0, 3.0, 2.0]) == Spread(2.5, 1.75, 3.25)
    assert Spread.of([4.0]) == Spread(4.0, 4.0, 4.0)
    row = Spread(0.5, 0.25, 0.75).row("a", goal="share", factor=100)
    assert (row.measured, row.low, row.high, row.goal) == (50.0, 25.0, 75.0, "share")


def test_what_is_compared_takes_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = Bench().alternate(functions, rounds=3, warm_up=1)
    assert "".join(calls) == "abccbaabccba"
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"a": 3, "b": 3, "c": 3}


class MadeUp(Measurement):
    """A measurement with given rows, which fails after them if told so."""

    def run(self, bench):
        yield Row("half as fast", 0.5, "speed", low=0.4, high=0.6, note="a | b")
        yield Row("only named", 3.0, unit="steps")
        if self.module == "fails":
            raise RuntimeError("out of order")


def test_goals_without_a_number_are_in_the_table(capsys):
    entry = MadeUp("made_up", "Made up", "works", (HIGH, LOW))
    lines, error = benchmark.measure(entry, Bench())
    assert error is None
    assert [(line["what"], line["verdict"]) for line in lines] == [
        ("half as fast", "missed by 0.470"),
        ("only named", ""),
        ("share", "not measured"),
    ]
    table = benchmark.format_table(lines).splitlines()
    assert table[0] == "| what | goal | measured | verdict | note |"
    assert table[2] == "| half as fast | at least 0.970 | 0.500 (0.400 to 0.600) | missed by 0.470 | a / b |"
    assert table[3] == "| only named |  | 3.00 steps |  |  |"
    lines, error = benchmark.measure(MadeUp("made_up", "Made up", "fails", (HIGH, LOW)), Bench())
    assert error == lines[-1]["note"] == "failed: RuntimeError: out of order"
    assert lines[0]["verdict"] == "missed by 0.470"
    assert "out of order" in capsys.readouterr().err


def test_a_row_of_an_unknown_goal_is_a_failure(capsys):
    _, error = benchmark.measure(MadeUp("made_up", "Made up", "works", (LOW,)), Bench())
    assert "has a row for the goal 'speed', which made_up lacks" in error
    assert "Traceback" in capsys.readouterr().err


def test_the_registry_is_whole():
    names = [entry.name for entry in MEASUREMENTS]
    assert len(names) == len(set(names))
    assert {"overhead", "alpha", "methods", "growth", "throughput", "memory", "startup"} <= set(names)
    for entry in MEASUREMENTS:
        goals = [goal.name for goal in entry.goals]
        assert len(goals) == len(set(goals))
        assert set(entry.suites) <= {"cpu", "gpu"}


# That of memory runs in tests/data/test_memory.py.
@pytest.mark.parametrize("name", [entry.name for entry in MEASUREMENTS if entry.name != "memory"])
def test_the_suite_runs(name, tmp_path, capsys):
    """Each measurement, on its smallest sizes: every goal has a number, and nothing that was timed was wrong."""
    (entry,) = (entry for entry in MEASUREMENTS if entry.name == name)
    (tmp_path / "b.md").write_text("# Benchmarks\n\n<!-- suite gpu -->\n## Suite gpu\n\nthat of the card\n")
    argv = ["--only", name, "--quick", "--threads", "1", "--json", str(tmp_path / "b.json")]
    benchmark.main([*argv, "--markdown", str(tmp_path / "b.md")])
    report = json.loads((tmp_path / "b.json").read_text())
    assert set(report) == {"suite", "date", "command", "seconds", "machine", "lines", "details", "pictures"}
    assert report["command"] == f"python scripts/benchmark.py --only {name} --quick --threads 1"
    assert {"processor", "cores", "threads", "torch", "transformers"} <= set(report["machine"])
    assert set(report["details"]) == {name}
    lines = report["lines"]
    assert {line["goal"]["name"] for line in lines if line["goal"]} == {goal.name for goal in entry.goals}
    for line in lines:
        assert isinstance(line["measured"], float), line
        assert line["correct"] is not False, line
        assert (line["verdict"] != "") == (line["goal"] is not None)
    printed, written = capsys.readouterr().out, (tmp_path / "b.md").read_text()
    for line in lines:
        assert f"| {line['what']} |" in printed
        assert f"| {line['what']} |" in written
    assert written.index("<!-- suite cpu -->") < written.index("<!-- suite gpu -->")
    assert written.endswith("that of the card\n")
    pictures = re.findall(r"!\[.+\]\((.+\.png)\)", written)
    assert bool(pictures) == (name == "growth")
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_one_measurement_anew_leaves_the_others(tmp_path, monkeypatch, capsys):
    entries = tuple(MadeUp(name, name.title(), "works", (HIGH, LOW)) for name in ("one", "two"))
    monkeypatch.setattr(benchmark, "MEASUREMENTS", entries)
    files = ["--json", str(tmp_path / "b.json"), "--markdown", str(tmp_path / "b.md")]
    benchmark.main(files)
    first = json.loads((tmp_path / "b.json").read_text())
    for line in first["lines"]:
        line["measured"] = 7.0
    first["pictures"] = [["one", "A plot", "one.png"], ["two", "Another", "two.png"]]
    (tmp_path / "b.json").write_text(json.dumps(first))
    benchmark.main(["--only", "two", *files])
    merged = json.loads((tmp_path / "b.json").read_text())
    kept = [line for line in merged["lines"] if line["measurement"] == "one"]
    assert kept == first["lines"][:3]
    assert [line["measured"] for line in merged["lines"] if line["measurement"] == "two"] == [0.5, 3.0, None]
    assert merged["command"] == "python scripts/benchmark.py\npython scripts/benchmark.py --only two"
    assert merged["pictures"] == [["one", "A plot", "one.png"]]
    assert "0 of 4 goals met" in capsys.readouterr().out.splitlines()[-1]
    text = (tmp_path / "b.md").read_text()
    assert text.index("### One") < text.index("(one.png)") < text.index("### Two")
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ValueError, match=r"b\.json holds no report"):
        benchmark.main(["--only", "two", *files])
    (tmp_path / "b.json").write_text('{"suite": "gpu"}')
    with pytest.raises(ValueError, match=r"b\.json holds the suite gpu; name another"):
        benchmark.main(["--only", "two", *files])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "tpu"], "suite='tpu' is unknown; choose cpu or gpu"),
        (["--only", "speed"], "only='speed' is no measurement of the suite cpu; it has overhead, "),
        (["--suite", "gpu", "--only", "startup"], "only='startup' is no measurement of the suite gpu"),
        (["--clock", "sun"], "clock='sun' is unknown; choose wall or cpu"),
        (["--data_dir", "nowhere"], "nowhere; data_dir must hold the files of AvMnist"),
        (["--fast"], "unknown setting 'fast'"),
    ],
)
def test_what_is_wrong_is_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        run(lambda: benchmark.main(argv))
    assert message in capsys.readouterr().err
