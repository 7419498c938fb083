"""Measure how fast the project is, in ratios within one run: one table of goal, measured, verdict."""

import datetime
import json
import os
import platform
import re
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run, say
from modeling_lfm.scripts.speed.suite import MEASUREMENTS, SUITES, Bench, Row, judge, show, use_threads

HELP = """
Measure the speed, and print one table: goal, measured, verdict.

usage: python scripts/benchmark.py [--suite cpu|gpu] [--json FILE] [--markdown FILE] [--setting value ...]
       python -m modeling_lfm.scripts.benchmark [--setting value ...]

Numbers are ratios within one run: what is compared takes turns, after a warm-up. The table has medians of the repeats
with their quartiles in brackets, and beside the speed whether the result was right. Use an idle machine.

examples:
  python scripts/benchmark.py --json measured.json --markdown model_cards/results/benchmarks.md
  python scripts/benchmark.py --only alpha growth
  python scripts/benchmark.py --only methods --json measured.json      anew; the rest of the file stays
  python scripts/benchmark.py --suite gpu

measurements:
{measurements}

settings:
{settings}

Preparing data and the latency of a prediction have programs of their own: benchmark_prepare.py, benchmark_pipeline.py.
Ends with status 1 if a measurement failed; a goal that is missed is in the table only.
"""
CLOCKS = ("wall", "cpu")
HEADING = """# Benchmarks

Written by `scripts/benchmark.py --markdown`: ratios within one run; medians, with quartiles in brackets."""
MARK = "<!-- suite {} -->"
COLUMNS = ("what", "goal", "measured", "verdict", "result", "note")


@dataclass
class BenchmarkArguments:
    """What is measured."""

    suite: str = field(default="cpu", metadata={"help": "cpu: small towers; gpu: real ones, on CUDA."})
    only: list[str] = field(default_factory=list, metadata={"help": "Names of measurements; all of the suite if none."})
    quick: bool = field(default=False, metadata={"help": "Smallest sizes: to try the suite, not to measure."})
    clock: str = field(
        default="wall",
        metadata={"help": "wall, or cpu: time of this process on all cores, which suffers less from other programs."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Files of AV-MNIST, to time a whole training on them; the built-in data else."}
    )
    threads: int = field(default=0, metadata={"help": "Cores on which torch computes; 0: all."})
    json: str | None = field(
        default=None,
        metadata={"help": "JSON file to write: rows, details, machine. With --only its other measurements stay."},
    )
    markdown: str | None = field(
        default=None,
        metadata={"help": "Markdown file to write, plots beside it; the other suite's part of the file stays."},
    )


def choose(suite, only):
    """The measurements (`list`) of a suite, or those of them that are named in `only`.

    Raises:
        ValueError: an unknown suite or name, or a name that is not of the suite.
    """
    if suite not in SUITES:
        raise ValueError(f"suite={suite!r} is unknown; choose {' or '.join(SUITES)}.")
    known = {entry.name: entry for entry in MEASUREMENTS if suite in entry.suites}
    for name in only:
        if name not in known:
            raise ValueError(f"only={name!r} is no measurement of the suite {suite}; it has {', '.join(known)}.")
    return [entry for entry in known.values() if not only or entry.name in only]


def measure(entry, bench):
    """The lines of one measurement: `dict`s of its rows with their goals and verdicts, and its error (`str` or None).

    A goal for which no row came is a line without a measured number; so is a measurement that failed.
    """
    goals = {goal.name: goal for goal in entry.goals}
    rows, error = [], None
    try:
        for row in entry.run(bench):
            if row.goal is not None and row.goal not in goals:
                raise ValueError(f"{entry.module} has a row for the goal {row.goal!r}, which {entry.name} lacks.")
            rows.append(row)
    except Exception as failure:  # the others are still to be measured
        traceback.print_exc()
        error = f"failed: {type(failure).__name__}: {failure}"
    seen = {row.goal for row in rows}
    rows += [Row(name, None, goal=name, note=error or "") for name in goals if name not in seen]
    if error and not any(row.note == error for row in rows):
        rows.append(Row(entry.title, None, note=error))
    return [describe_row(entry, row, goals) for row in rows], error


def describe_row(entry, row, goals):
    """A row (`Row`) as a `dict` for the table and JSON."""
    goal = goals.get(row.goal)
    line = {"measurement": entry.name, **asdict(row), "verdict": judge(row, goals)}
    if goal is not None:
        line |= {"unit": goal.unit, "goal": {**asdict(goal), "text": str(goal)}}
    return line


def cells(line):
    """The texts (`dict` by column) of a line."""
    measured = show(line["measured"], line["unit"])
    if line["low"] is not None:
        measured += f" ({show(line['low'], 'x')} to {show(line['high'], 'x')})"
    result = {True: "right", False: "WRONG", None: ""}[line["correct"]]
    return {
        "what": line["what"],
        "goal": line["goal"]["text"] if line["goal"] else "",
        "measured": measured,
        "verdict": line["verdict"],
        "result": f"{result}: {line['check']}" if result and line["check"] else result,
        "note": line["note"],
    }


def format_table(lines):
    """Markdown (`str`) of the lines of one measurement; columns that say nothing are left out."""
    rows = [cells(line) for line in lines]
    columns = [name for name in COLUMNS if name in ("what", "measured") or any(row[name] for row in rows)]
    table = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in table)


def run_suite(args):
    """Measure.

    Args:
        args ([`BenchmarkArguments`])

    Returns:
        the report (`dict` with `suite`, `date`, `command`, `seconds`, `machine`, `lines` and, by measurement,
        `details`), the plots (a `dict` of figures by title, by measurement), and the errors (`list[str]`).
    """
    import torch

    from modeling_lfm.data import check_benchmark

    entries = choose(args.suite, args.only)
    if args.clock not in CLOCKS:
        raise ValueError(f"clock={args.clock!r} is unknown; choose {' or '.join(CLOCKS)}.")
    if args.data_dir is not None:
        check_benchmark("av_mnist", args.data_dir)
    if args.suite == "gpu" and not torch.cuda.is_available():
        raise ValueError("suite=gpu needs a CUDA device, and torch sees none.")
    start, lines, errors, details, plots = time.perf_counter(), [], [], {}, {}
    machine = describe_machine(args.suite, use_threads(args.threads))
    for entry in entries:
        say(f"\n{entry.title}\n")
        begun, bench = time.perf_counter(), Bench(args.suite, args.quick, args.clock, args.data_dir)
        found, error = measure(entry, bench)
        lines, errors = lines + found, errors + ([error] if error else [])
        details[entry.name] = {**bench.details, "seconds": round(time.perf_counter() - begun, 1)}
        plots[entry.name] = bench.plots
        say(format_table(found) + f"\n\n{details[entry.name]['seconds']:.0f} s")
    report = {
        "suite": args.suite,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python scripts/benchmark.py", *_words(args)]),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": machine,
        "lines": lines,
        "details": details,
    }
    return report, plots, errors


def merge_reports(old, new, measured):
    """A report (`dict`): `new` for what was `measured` (`list[str]`), and `old` for the other measurements."""
    kept = [line for line in old["lines"] if line["measurement"] not in measured]
    again = sum(old["details"].get(name, {}).get("seconds", 0) for name in measured)
    return {
        **new,
        "command": "\n".join(dict.fromkeys([*old["command"].split("\n"), new["command"]])),
        "seconds": round(old["seconds"] - again + new["seconds"], 1),
        "lines": kept + new["lines"],
        "details": {**old["details"], **new["details"]},
        "pictures": [found for found in old["pictures"] if found[0] not in measured] + new["pictures"],
    }


def _words(args):
    """The words of the command line that give what was measured."""
    words = [] if args.suite == "cpu" else ["--suite", args.suite]
    words += ["--only", *args.only] if args.only else []
    words += ["--quick"] if args.quick else []
    words += ["--clock", args.clock] if args.clock != "wall" else []
    words += ["--data_dir", Path(args.data_dir).name] if args.data_dir is not None else []
    return words + (["--threads", str(args.threads)] if args.threads else [])


def describe_machine(suite, threads):
    """What the numbers are measured on (`dict`)."""
    import torch
    import transformers

    machine = {"card": torch.cuda.get_device_name()} if suite == "gpu" else {}
    return machine | {
        "processor": read_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load at the start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def read_processor():
    """Its name (`str`)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def format_report(report):
    """The result (`dict`, see [`run_suite`] and [`save_plots`]) as Markdown (`str`)."""
    goals = [line for line in report["lines"] if line["goal"]]
    met = sum(line["verdict"] == "met" for line in goals)
    machine = ", ".join(f"{key}: {value}" for key, value in report["machine"].items())
    parts = [
        f"## Suite {report['suite']}",
        f"{report['date']}, {report['seconds'] / 60:.1f} minutes, {met} of {len(goals)} goals met. {machine}.",
        f"```bash\n{report['command']}\n```",
    ]
    for entry in MEASUREMENTS:
        lines = [line for line in report["lines"] if line["measurement"] == entry.name]
        if lines:
            parts += [f"### {entry.title}", format_table(lines)]
            parts += [f"![{title}]({file})" for owner, title, file in report["pictures"] if owner == entry.name]
    return "\n\n".join(parts)


def save_plots(path, suite, plots):
    """Write the plots of a suite as PNGs beside the Markdown file `path`.

    Returns:
        `list` of (measurement, title, file name).
    """
    path, pictures = Path(path), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for owner, figures in plots.items():
        for number, (title, figure) in enumerate(figures.items()):
            name = f"{path.stem}_{suite}_{owner}" + (f"_{number}" if number else "") + ".png"
            figure.savefig(path.with_name(name), format="png")
            pictures.append((owner, title, name))
    return pictures


def write_markdown(path, report):
    """Write the part of `path` (`str`) that belongs to the report's suite; the other suite's stays."""
    parts = read_parts(Path(path)) | {report["suite"]: format_report(report)}
    texts = [f"{MARK.format(suite)}\n{parts[suite]}" for suite in SUITES if suite in parts]
    Path(path).write_text("\n\n".join([HEADING, *texts]) + "\n", encoding="utf-8")


def read_report(path, suite):
    """The report (`dict`) in the JSON file `path`, or None if there is no file.

    Raises:
        ValueError: it is no report, or that of another suite.
    """
    if path is None or not Path(path).is_file():
        return None
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        found = report["suite"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no report of this program; remove it or name another file.") from error
    if found != suite:
        raise ValueError(f"{path} holds the suite {found}; name another file for the suite {suite}.")
    return report


def read_parts(path):
    """What `path` (`Path`) holds of each suite (`dict`)."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.split(re.escape(MARK).replace(r"\{\}", "([a-z]+)"), text)[1:]
    return {suite: part.strip() for suite, part in zip(found[::2], found[1::2], strict=True)}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        known = "\n".join(f"  {e.name:<12}{e.title} ({', '.join(e.suites)})" for e in MEASUREMENTS)
        arguments.show_help(HELP.format(measurements=known, settings=arguments.describe(BenchmarkArguments)))
    (args,) = arguments.build(arguments.read_settings(argv), BenchmarkArguments)
    earlier = read_report(args.json, args.suite) if args.only else None
    report, plots, errors = run_suite(args)
    report["pictures"] = [] if args.markdown is None else save_plots(args.markdown, args.suite, plots)
    if earlier is not None:
        report = merge_reports(earlier, report, args.only)
    if args.json is not None:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.markdown is not None:
        write_markdown(args.markdown, report)
    goals = [line for line in report["lines"] if line["goal"]]
    say(f"\n{sum(line['verdict'] == 'met' for line in goals)} of {len(goals)} goals met, {report['seconds']:.0f} s")
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
