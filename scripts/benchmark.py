"""Measure how fast the project is, in ratios within one run: one table of goal, measured, verdict."""

import argparse
import datetime
import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from modeling_lfm.scripts.common.console import run

# The title of a measurement, and where its function lies: it takes a `Setup` and yields `Row`s (scripts/speed/rows.py).
MEASUREMENTS = {
    "overhead": ("LfmTrainer against a bare PyTorch loop", "training.overhead"),
    "alpha": ("The learned alpha", "alpha.cost"),
    "methods": ("Methods: a step over that of concat", "training.methods"),
    "growth": ("Growth of an update of alpha", "alpha.growth"),
    "throughput": ("Samples a second of training", "training.throughput"),
    "memory": ("Memory", "data.memory"),
    "startup": ("Start-up", "programs.startup"),
    "input": ("Input pipeline", "data.reading"),
    "preparation": ("Preparation", "data.preparation"),
    "pipeline": ("Latency of a prediction", "programs.pipeline"),
    "processes": ("Several processes", "processes.processes"),
}
DESCRIPTION = """
Measure the speed of training, data and prediction, and print one table: goal, measured, verdict.

Numbers are ratios within one run where they can be: what is compared takes turns. The table has medians of the repeats
with their quartiles in brackets, and beside the speed whether the result was right. Use an idle machine, and a clone:
the measurements are not installed.

measurements:
"""
EPILOG = """
examples:
  python scripts/benchmark.py --json speed.json --markdown speed.md
  python scripts/benchmark.py --only methods alpha --json speed.json --markdown speed.md     the rest of the files stays
  python scripts/benchmark.py --device cuda

Ends with status 1 if a measurement failed; a goal that is missed is in the table only.
"""


def parse(argv):
    """The options of a command line (`argparse.Namespace`)."""
    names = "\n".join(f"  {name:<13}{title}" for name, (title, _) in MEASUREMENTS.items())
    style = argparse.RawDescriptionHelpFormatter
    about = DESCRIPTION + names
    parser = argparse.ArgumentParser("benchmark.py", description=about, epilog=EPILOG, formatter_class=style)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help="these measurements only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)")
    parser.add_argument("--threads", type=int, help="cores on which torch computes (default: all)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: to try it, not to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where numbers are written, those of --only anew")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where the table of all numbers is written")
    return parser.parse_args(argv)


def measure(name, setup):
    """The rows of a measurement (`list[Row]`), and its error (`str`, or None)."""
    module, _, function = MEASUREMENTS[name][1].partition(".")
    rows = []
    try:
        for row in getattr(import_module(f"modeling_lfm.scripts.speed.{module}"), function)(setup):
            rows.append(row)
    except Exception as error:  # the others are still to be measured
        traceback.print_exc()
        return rows, f"{type(error).__name__}: {error}"
    return rows, None


def describe_machine(device):
    """What the numbers are measured on (`dict`)."""
    import torch
    import transformers

    card = {"card": torch.cuda.get_device_name()} if device == "cuda" else {}
    return card | {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load at the start": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
    }


def read_report(path):
    """What `path` (`Path`, or None) holds of earlier calls: measurements by name (`dict`)."""
    if path is None or not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {name: report[name] for name in MEASUREMENTS if report.get(name)}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} holds no report of this program; remove it or name another file.") from error


def format_report(report):
    """The report (`dict` of measurements by name) as Markdown (`str`)."""
    from modeling_lfm.scripts.speed.rows import Row, format_table

    parts = ["# Speed", "Written by `scripts/benchmark.py --markdown`: medians, with quartiles in brackets."]
    for name, found in report.items():
        machine = ", ".join(f"{key}: {value}" for key, value in found["machine"].items())
        parts += [f"## {MEASUREMENTS[name][0]}", format_table([Row(**row) for row in found["rows"]])]
        parts += [f"`--only {name}`, {found['seconds']:.0f} s. {machine}."]
    return "\n\n".join(parts) + "\n"


def main(argv=None):
    args = parse(argv)
    import torch

    from modeling_lfm.scripts.speed.rows import Setup, format_table

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA device, and torch sees none.")
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # of the processes that are started
    report, failed = read_report(args.json) if args.only else {}, []
    for name in args.only or MEASUREMENTS:
        print(f"\n{MEASUREMENTS[name][0]}\n", flush=True)
        machine, start = describe_machine(args.device), time.perf_counter()
        rows, error = measure(name, Setup(args.device, args.quick))
        failed += [f"{name}: {error}"] if error else []
        seconds = round(time.perf_counter() - start, 1)
        report[name] = {"rows": [asdict(row) for row in rows], "seconds": seconds, "machine": machine}
        print(format_table(rows) + f"\n\n{seconds:.0f} s", flush=True)
        for path, text in ((args.json, json.dumps(report, indent=2) + "\n"), (args.markdown, format_report(report))):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    run(main)
