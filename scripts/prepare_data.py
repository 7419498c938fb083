"""Prepare a benchmark: check the files, decode them, compute what training reads, write Parquet shards.
usage: python scripts/prepare_data.py --benchmark NAME --data_dir DIR --output DIR [--setting value ...]
       python scripts/prepare_data.py --how [--benchmark NAME]

What is computed is what training with the benchmark's configuration reads; its settings can be overridden as in
train.py. Stopped or killed, the same command goes on and ends with the same bytes. Broken media are named and left out.
  python scripts/prepare_data.py --how --benchmark crema_d                     where it is obtained, its licence, layout
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/crema_d --download
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/112 --processor.video.size 112
  python scripts/train.py crema_d --data_dir prepared/crema_d                  training from the shards
written to output: data/*.parquet and README.md, which datasets.load_dataset reads without this library; processor/;
preparation.json (what was prepared how, and a checksum of each shard); report.json (counts, every missing sample).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from transformers.hf_argparser import HfArg

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say
from modeling_lfm.scripts.common.executor import ExecutorArguments

FROM_CONFIG = ("processor", "columns", "benchmark_options", "modalities", "tokenizer", "num_proc", "missing")
BAR = {"unit": "", "mininterval": 0.5 if sys.stderr.isatty() else 30}  # in a file, a line in half a minute


@dataclass
class PrepareArguments(ExecutorArguments, arguments.SourceArguments):
    """What is prepared, from where, to where."""

    benchmark: str | None = HfArg(default=None, help="Name of the data set, such as crema_d.")
    output: str | None = HfArg(default=None, help="Folder to write to: a new one, or one to go on with.")
    config: str | None = HfArg(
        default=None, help="Configuration of train.py, a YAML file or a name; the benchmark's if not given."
    )
    strict: bool = HfArg(default=False, help="Make missing and broken samples an error.")
    verify: bool = HfArg(default=False, help="Read finished shards again; those that were damaged are written anew.")
    missing_shown: int = HfArg(default=10, help="Names of missing samples that are printed.")
    samples_per_shard: int | None = HfArg(
        default=None, help="Samples of a file; about 256 MB of them, 1,000 at most, if not given."
    )
    download: bool = HfArg(
        default=False, help="First fetch what data_dir lacks: all of crema_d; annotation files of others."
    )
    push_to_hub: str | None = HfArg(
        default=None, help="Name of a data set on the Hub, such as me/crema_d, to send the result to."
    )
    public: bool = HfArg(default=False, help="Let everybody see it there; mind the licence.")
    how: bool = HfArg(default=False, help="Tell where the data is obtained, its licence and its layout.")
    processor: dict = HfArg(default_factory=dict, help="As in the configuration.")
    modalities: dict = HfArg(default_factory=dict, help="As in the configuration.")
    tokenizer: str | None = HfArg(default=None, help="As in the configuration.")


def parse_arguments(argv):
    """[`PrepareArguments`] of a command line (`list[str]`), filled up from the configuration."""
    config = {}

    def start(words, overrides):
        from modeling_lfm.data import find_benchmark

        given = {key: values[0] for key, values in overrides.items() if values}
        if "benchmark" in given:
            find_benchmark(given["benchmark"])
        if "how" not in overrides:
            for key in ("benchmark", "output"):
                if key not in given:
                    raise ValueError(f"--{key} is missing; --help tells more.")
            config.update(arguments.read_config(given.get("config", given["benchmark"])))
        return {key: config[key] for key in FROM_CONFIG if key in config}

    args = arguments.read_arguments(argv, __doc__, PrepareArguments, start=start)
    arguments.check_positive(args, "num_proc", "samples_per_shard")
    args.missing = arguments.check_missing(args.missing) or "error"
    if args.public and args.push_to_hub is None:
        raise ValueError("--public says who may see what --push_to_hub sends; give that too.")
    if config.get("benchmark", args.benchmark) != args.benchmark:
        raise ValueError(f"{args.config} is a configuration of {config['benchmark']!r}, not of {args.benchmark!r}.")
    return args


def prepare(args):
    """Check, prepare what is not there yet, describe it, report, and send it to the Hub where that is asked for."""
    from modeling_lfm.data import check_benchmark
    from modeling_lfm.data.download import download
    from modeling_lfm.data.shards import check_output
    from modeling_lfm.scripts.common.own_data import complete_arguments
    from modeling_lfm.trainer.checkpoints import only_run
    from modeling_lfm.trainer.hub import open_repository, push_dataset

    if not sys.stderr.isatty():
        hide_progress_bars()
    check_output(output := Path(args.output).expanduser())
    if args.push_to_hub is not None:
        open_repository(args.push_to_hub, "dataset", private=not args.public)  # better now than after hours
    if args.download and (absent := download(args.benchmark, args.data_dir)):
        say(f"{len(absent)} files are not on the server, such as {absent[0]}")
    report = check_benchmark(args.benchmark, args.data_dir, args.missing, **args.benchmark_options)
    say(report.text(args.missing_shown))
    if args.strict:
        report.require_complete(args.missing_shown)
    with only_run(output, args.part is None):  # parts write each its own shards
        if args.benchmark == "table":
            complete_arguments(args)
        write(output, args, report)
    if args.push_to_hub is not None:
        say(f"sent to {push_dataset(args.push_to_hub, output)}")


def write(output, args, report):
    """Everything of the prepared folder `output` (`Path`) that is not there yet; `report` learns of broken samples."""
    from modeling_lfm.data import fit_processor, load_benchmark
    from modeling_lfm.data.shards import Preparation
    from modeling_lfm.scripts.common.training import make_processor

    processor = make_processor([name for name in args.modalities if name in args.processor], args, args)
    columns = runs.pick_columns(processor.modalities, args.columns)
    raw = load_benchmark(args.benchmark, args.data_dir, None, None, False, None, args.missing, **args.benchmark_options)
    runs.check_data(raw, args, processor)
    fit_processor(processor, raw["train"], columns, args.missing)
    source = (args.benchmark, args.benchmark_options, raw, args.data_dir)
    task = Preparation(output, *source, processor, columns, args.samples_per_shard, args.missing)
    task.begin(args.verify, args.pieces)
    total, left = (sum(len(shard) for shard in shards) for shards in (task.shards, task.todo))
    with tqdm(desc="preparing samples", total=total, initial=total - left, **BAR) as bar:
        for shard in task.write(args.choose_run(args.num_proc, len(task.todo))):
            bar.update(len(shard))
    if args.part is not None:
        return say(f"part {args.part} is written; after all parts, the same command without --part ends it")
    counts = task.finish(report, args.strict)
    say(report.text(args.missing_shown))
    told = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    say(f"prepared {told} samples; train: scripts/train.py {args.config or args.benchmark} --data_dir {output}")


def main(argv=None):
    args = parse_arguments(argv)
    if args.how:
        from modeling_lfm.data.sources import how

        return print(how(args.benchmark))
    prepare(args)


if __name__ == "__main__":
    run(main)
