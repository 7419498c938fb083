"""Measure the speed of training and data, and print one table: goal, measured, verdict.
usage: python scripts/benchmark.py [--only NAME ...] [--setting value ...]

Numbers are ratios within one run where they can be: what is compared takes turns. The table has medians of the repeats
with their quartiles, and whether the result was right. Use an idle machine, and a clone: they are not installed. Ends
with status 1 if a measurement failed; a goal that is missed is in the table only.

examples:
  python scripts/benchmark.py --json speed.json --markdown speed.md
  python scripts/benchmark.py --only methods alpha --markdown speed.md
  python scripts/benchmark.py --suite gpu --json gpu.json --markdown gpu.md   large models on a CUDA device
"""

import datetime
import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from transformers.hf_argparser import HfArg

from modeling_lfm.registry_lfm import suggest
from modeling_lfm.scripts.common.console import check_writable, run
from modeling_lfm.scripts.common.settings import read_arguments

# The title of a measurement, and where its function lies: it takes a `Setup` and yields `Row`s (scripts/speed/rows.py).
MEASUREMENTS = {
    "overhead": ("LfmTrainer against a bare PyTorch loop", "training.overhead"),
    "alpha": ("The learned alpha", "alpha.cost"),
    "methods": ("Methods: a step over that of concat", "training.methods"),
    "throughput": ("Samples a second of training", "training.throughput"),
    "input": ("Input pipeline", "files.reading"),
    "processes": ("Several processes", "processes.processes"),
    "gpu": ("Training on a CUDA device", "gpu.training"),
    "compiled": ("Compiled training on a CUDA device", "gpu.compiled"),
}
LARGE = ("gpu", "compiled")
# Of the second, what takes longest comes last: what is measured is written, whenever the run ends.
SUITES = {"cpu": [name for name in MEASUREMENTS if name not in LARGE], "gpu": ["gpu", "alpha", "compiled"]}


@dataclass
class SpeedArguments:
    """Settings of `benchmark.py`: what is measured on which device, and where it is written."""

    suite: str = HfArg(default="cpu", help="cpu: ratios on any machine; gpu: large models on a CUDA device.")
    only: list[str] | None = HfArg(default=None, help="These measurements only, in place of a suite.")
    device: str | None = HfArg(default=None, help="cpu or cuda; that of the suite if not given.")
    quick: bool = HfArg(default=False, help="Smallest sizes: to try it, not to measure.")
    json: str | None = HfArg(default=None, help="Where the numbers are written.")
    markdown: str | None = HfArg(default=None, help="Where the tables are written.")

    def __post_init__(self):
        suites = {"cpu": "cpu", "gpu": "cuda"}  # and their devices
        self.device = self.device or suites.get(self.suite)
        given = {"suite": ([self.suite], suites), "only": (self.only or [], MEASUREMENTS)}
        for key, (values, known) in {**given, "device": ([self.device], suites.values())}.items():
            for value in values:
                if value not in known:
                    raise ValueError(f"{key}={value!r} is unknown; {suggest(value, known)}")
        self.only = self.only or SUITES[self.suite]


def describe_machine(device, start):
    """What the numbers are measured on, and the seconds since `start` (`dict`)."""
    import torch
    import transformers

    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - start),
    }


def format_report(report):
    """The report (`dict` of measurements by name) as Markdown (`str`)."""
    from modeling_lfm.scripts.speed.rows import Row, format_table

    parts = ["# Speed", "Written by `scripts/benchmark.py --markdown`: medians, with quartiles in brackets."]
    for name, found in report.items():
        facts = ", ".join(f"{key}: {value}" for key, value in {"only": name, **found["machine"]}.items())
        parts += [f"## {MEASUREMENTS[name][0]}", format_table([Row(**row) for row in found["rows"]]), facts]
    return "\n\n".join(parts) + "\n"


def write(args, report, name, rows, start):
    """Put the rows of a measurement into the report, and write it: a run that is cut short keeps them."""
    report[name] = {"rows": [asdict(row) for row in rows], "machine": describe_machine(args.device, start)}
    for path, text in ((args.json, json.dumps(report, indent=2) + "\n"), (args.markdown, format_report(report))):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")


def main(argv=None):
    args = read_arguments(argv, __doc__, SpeedArguments)
    for key in ("json", "markdown"):
        check_writable(key, getattr(args, key))

    import torch

    from modeling_lfm.scripts.speed.rows import Setup, format_table

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--{'suite gpu' if args.suite == 'gpu' else 'device cuda'} needs a CUDA device; torch sees none."
        )
    report, failed = {}, []
    for name in args.only:
        print(f"\n{MEASUREMENTS[name][0]}\n", flush=True)
        start, rows = time.perf_counter(), []
        module, _, function = MEASUREMENTS[name][1].partition(".")
        try:
            module = import_module(f"modeling_lfm.scripts.speed.{module}")
            for row in getattr(module, function)(Setup(args.device, args.quick)):
                rows.append(row)
                write(args, report, name, rows, start)
        except Exception as error:  # the others are still to be measured
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
        write(args, report, name, rows, start)
        print(format_table(rows), flush=True)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    run(main)
