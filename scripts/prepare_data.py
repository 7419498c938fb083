"""Prepare a benchmark once: from the files that people have to Parquet shards that training reads."""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import hide_progress_bars, run, say

HELP = """
Prepare a benchmark: check the files, decode them, compute what training reads, write Parquet shards.

usage: python scripts/prepare_data.py --benchmark NAME --data_dir DIR --output DIR [--setting value ...]
       python scripts/prepare_data.py --how [--benchmark NAME]
       python -m modeling_lfm.scripts.prepare_data ...

What is computed is what training with the benchmark's configuration reads; settings of that configuration can be
overridden as in train.py. Stopped or killed, the same command goes on and ends with the same bytes. Broken media are
named and left out; the program ends with a report of counts against those that were published.

examples:
  python scripts/prepare_data.py --how --benchmark crema_d                     where it is obtained, its licence, layout
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/crema_d
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/crema_d --download
  python scripts/prepare_data.py --benchmark sarcasm --config sarcasm_clip --data_dir DIR --output prepared/sarcasm
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/112 --processor.video.size 112
  python scripts/prepare_data.py --benchmark crema_d --data_dir CREMA-D --output prepared/c --push_to_hub me/crema_d
  python scripts/train.py crema_d --data_dir prepared/crema_d                  training from the shards

settings:
{settings}

written to output: data/*.parquet and README.md, which datasets.load_dataset reads without this library; processor/;
preparation.json (what was prepared how); report.json (counts, and every missing sample).
"""
LOCK = ".prepare.lock"


@dataclass
class PrepareArguments:
    """What is prepared, from where, to where."""

    benchmark: str | None = field(default=None, metadata={"help": "Name of the data set, such as crema_d."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's files."})
    output: str | None = field(default=None, metadata={"help": "Folder to write to: a new one, or one to go on with."})
    config: str | None = field(
        default=None,
        metadata={
            "help": "Configuration of train.py, a YAML file or a name; the one called as the benchmark if not given."
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes; one for each core, 16 at most, if not given."}
    )
    strict: bool = field(default=False, metadata={"help": "Make missing and broken samples an error."})
    missing_shown: int = field(default=10, metadata={"help": "Names of missing samples that are printed."})
    samples_per_shard: int | None = field(
        default=None, metadata={"help": "Samples of a file; about 256 MB of them, 1,000 at most, if not given."}
    )
    download: bool = field(
        default=False,
        metadata={"help": "First fetch into data_dir what is not there: all of crema_d; annotation files of others."},
    )
    push_to_hub: str | None = field(
        default=None, metadata={"help": "Name of a data set on the Hub, such as me/crema_d, to send the result to."}
    )
    public: bool = field(default=False, metadata={"help": "Let everybody see it there; mind the licence."})
    how: bool = field(default=False, metadata={"help": "Tell where the data is obtained, its licence and its layout."})
    processor: dict = field(default_factory=dict, metadata={"help": "As in the configuration."})
    columns: dict = field(default_factory=dict, metadata={"help": "As in the configuration."})
    benchmark_options: dict = field(default_factory=dict, metadata={"help": "As in the configuration."})
    modalities: dict = field(default_factory=dict, metadata={"help": "As in the configuration; names the tokenizer."})
    tokenizer: str | None = field(default=None, metadata={"help": "As in the configuration."})


FROM_CONFIG = ("processor", "columns", "benchmark_options", "modalities", "tokenizer", "num_proc")


def parse_arguments(argv):
    """[`PrepareArguments`] of a command line (`list[str]`), filled up from the configuration.

    Raises:
        ValueError, FileNotFoundError: an unknown setting or benchmark, a wrong value, a missing one.
    """
    from modeling_lfm.data import list_benchmarks

    words, overrides = arguments.parse_command_line(argv)
    if words:
        raise ValueError(f"{' '.join(words)} is not a setting; --help tells more.")
    own = {}
    arguments.apply_overrides(own, {key: value for key, value in overrides.items() if "." not in key})
    (args,) = arguments.build(own, PrepareArguments)
    if args.benchmark is not None and args.benchmark not in list_benchmarks():
        raise ValueError(f"unknown benchmark {args.benchmark!r}; choose one of {', '.join(list_benchmarks())}.")
    if args.how:
        return args
    for key in ("benchmark", "output"):
        if getattr(args, key) is None:
            raise ValueError(f"--{key} is missing; --help tells more.")
    config = arguments.read_config(args.config or args.benchmark)
    if config.get("benchmark") != args.benchmark:
        raise ValueError(f"{args.config} is a configuration of {config.get('benchmark')!r}, not of {args.benchmark!r}.")
    settings = {key: config[key] for key in FROM_CONFIG if key in config}
    arguments.apply_overrides(settings, overrides)
    (args,) = arguments.build(settings, PrepareArguments)
    for key, least in (("num_proc", 1), ("samples_per_shard", 1), ("missing_shown", 0)):
        value = getattr(args, key)
        if value is not None and value < least:
            raise ValueError(f"{key}={value} must be at least {least}.")
    if args.public and args.push_to_hub is None:
        raise ValueError("--public says who may see what --push_to_hub sends; give that too.")
    return args


def check_output(output, manifest=None):
    """Raise an `OSError` or `ValueError` where `output` (`Path`) cannot be written to, or holds something else.

    Args:
        output (`Path`), manifest (`dict`, *optional*): what is to be prepared; that of the folder must be equal.
    """
    from modeling_lfm.data.prepared import MANIFEST, first_difference, is_prepared, read_manifest

    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file; choose another --output.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write in {existing}; choose another --output.")
    if not output.is_dir():
        return
    if not is_prepared(output):
        others = sorted(path.name for path in output.iterdir() if path.name not in (LOCK, f".{MANIFEST}.part"))
        if others:
            raise ValueError(f"{output} holds something else, such as {others[0]}; choose an empty or new --output.")
    elif manifest is not None:
        found = first_difference(read_manifest(output), manifest)
        if found is None:
            return
        key, there, here = found
        if key.partition(".")[0] in ("files", "samples"):
            what = "other files: those in data_dir have changed since, or are others"
        else:
            what = f"{key} = {there!r}, and now it is {here!r}"
        raise ValueError(
            f"{output} was begun with {what}. The two must not be mixed: set it as it was, choose another --output, or "
            "delete the folder to begin again."
        )


@contextmanager
def locked(output):
    """Hold `output` (`Path`), which is made, against a second run of this program."""
    from filelock import FileLock, Timeout

    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(output / LOCK), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"another preparation is writing to {output}; wait for it, or stop it.") from None
    try:
        yield
    finally:
        (output / LOCK).unlink(missing_ok=True)
        lock.release()


def check_room(output, shards, processor, columns):
    """Raise an `OSError` where the shards that are left cannot fit on the disk of `output` (`Path`)."""
    from modeling_lfm.data.preparation import sample_bytes

    needed = sample_bytes(processor, columns) * sum(len(shard) for shard in shards)
    free = shutil.disk_usage(output).free
    if free < needed / 2:  # compression saves less than that
        raise OSError(
            f"{output} needs up to {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free; make room, or choose "
            "another --output."
        )
    if free < needed:
        say(f"note: {needed / 1e9:.1f} GB before compression, {free / 1e9:.1f} GB are free")


def prepare(args):
    """Check, prepare what is not there yet, describe it, report, and send it to the Hub where that is asked for.

    Args:
        args ([`PrepareArguments`])

    Returns:
        `DownloadReport` of what is there, broken samples counted as missing.
    """
    from modeling_lfm.data import check_benchmark

    output = Path(args.output).expanduser()
    check_output(output)
    if args.push_to_hub is not None:
        from modeling_lfm.scripts.common.hub_upload import open_dataset

        open_dataset(args.push_to_hub, args.public)  # better now than after hours
    if args.download:
        fetch(args.benchmark, args.data_dir)
    report = check_benchmark(args.benchmark, args.data_dir, **args.benchmark_options)
    say(report.text(args.missing_shown))
    if args.strict:
        report.require_complete(args.missing_shown)
    with locked(output):
        write_folder(output, args, report)
    if args.push_to_hub is not None:
        from modeling_lfm.scripts.common.hub_upload import push_dataset

        say(f"sent to {push_dataset(args.push_to_hub, output)}")
    return report


def fetch(benchmark, data_dir):
    """Fetch what `data_dir` lacks, with a progress bar."""
    from modeling_lfm.data.download import download

    if data_dir is None:
        raise ValueError("--download needs --data_dir, the folder to fetch into.")
    bar = progress_bar(0, 0, "fetching", "files")

    def on_plan(count):
        bar.total = count
        bar.refresh()

    with bar:
        absent = download(benchmark, Path(data_dir).expanduser(), on_plan=on_plan, on_file=bar.update)
    if absent:
        say(f"{len(absent)} files are not on the server, such as {absent[0]}")


def progress_bar(total, done, name, unit):
    """A `tqdm` on stderr; in a file, one line in half a minute."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=name, unit=f" {unit}", mininterval=0.5 if sys.stderr.isatty() else 30)


def load_raw(args):
    """The raw splits (`datasets.DatasetDict`). Their report was printed, so it is not again."""
    import logging

    from modeling_lfm.data import load_benchmark

    logger = logging.getLogger("modeling_lfm.data.benchmark")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return load_benchmark(args.benchmark, args.data_dir, **args.benchmark_options)
    finally:
        logger.setLevel(level)


def write_folder(output, args, report):
    """Everything of the prepared folder `output` (`Path`) that is not there yet; `report` learns of broken samples."""
    from modeling_lfm.data import prepared, shards
    from modeling_lfm.scripts.train import make_processor

    processor = make_processor([name for name in args.modalities if name in args.processor], args, args)
    columns = runs.pick_columns(processor.modalities, args.columns)
    raw = load_raw(args)
    check_columns(raw, columns, args.benchmark)
    data_dir = None if args.data_dir is None else str(Path(args.data_dir).expanduser().resolve())
    size = args.samples_per_shard or shards.default_shard_size(processor, columns)
    manifest = prepared.describe_preparation(
        args.benchmark, args.benchmark_options, raw, data_dir, processor, columns, size
    )
    check_output(output, manifest)
    if prepared.is_prepared(output):
        manifest = prepared.read_manifest(output)  # equal, but a duration of 3 may be one of 3.0 there
    else:
        prepared.write_manifest(output, manifest)
    try:
        processor.save_pretrained(output / prepared.PROCESSOR)
    except OSError as error:
        raise shards.unwritable(output / prepared.PROCESSOR, error) from error
    shards.remove_parts(output)
    identity = prepared.digest_manifest(manifest)
    planned = shards.plan_shards(manifest["samples"], size)
    todo = [shard for shard in planned if shards.read_shard(output, shard, identity) is None]
    check_room(output, todo, processor, columns)
    setup = {
        "folder": str(output),
        "raw": raw,
        "processor": str(output / prepared.PROCESSOR),
        "columns": columns,
        "data_dir": data_dir,
        "identity": identity,
    }
    if len(todo) < len(planned):
        say(f"{len(planned) - len(todo)} of {len(planned)} shards are there already")
    write_missing(planned, todo, setup, args.num_proc or min(count_cores(), 16))
    finish(output, manifest, processor, planned, raw, report, args)


def count_cores():
    """Cores that this program may use (`int`)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_missing(planned, todo, setup, processes):
    """Write the shards `todo` of those `planned`, under a progress bar in samples."""
    from modeling_lfm.data.shard_pool import write_shards

    total, left = (sum(len(shard) for shard in part) for part in (planned, todo))
    with progress_bar(total, total - left, "preparing", "samples") as bar:
        write_shards(todo, setup, processes, lambda done: bar.update(total - left + done - bar.n))


def check_columns(raw, columns, benchmark):
    """Raise a `ValueError` where a column that a modality reads is not in the data."""
    known = next(iter(raw.values())).column_names
    for name, column in columns.items():
        if column not in known:
            raise ValueError(
                f"{benchmark} has no column {column!r} for the modality {name!r}; it has {', '.join(known)}. "
                f"--columns.{name} COLUMN names it."
            )


def finish(output, manifest, processor, planned, raw, report, args):
    """Count what is in the shards, complete `report`, and write it and the card."""
    from modeling_lfm.data import prepared, shards
    from modeling_lfm.data.dataset_card import make_card

    identity = prepared.digest_manifest(manifest)
    splits = {split: [0, 0, 0] for split in manifest["samples"]}
    for shard in planned:
        count, size, left_out = shards.read_shard(output, shard, identity)
        splits[shard.split] = [sum(pair) for pair in zip(splits[shard.split], (count, size, 1), strict=True)]
        for sample in left_out:
            report.leave_out(sample.split, sample.name, sample.reason)
    broken = sum(manifest["samples"].values()) - sum(count for count, _, _ in splits.values())
    say(report.text(args.missing_shown))
    if broken:
        say(f"  {broken:,} of them cannot be read; report.json names all.")
    if args.strict:
        report.require_complete(args.missing_shown)
    for split, (count, _, _) in splits.items():
        if count == 0:
            raise ValueError(f"no sample of the split {split!r} can be read; {report.missing[-1].reason}")
    features = shards.prepared_features(raw, processor, manifest["columns"])
    report.data_dir = ""  # of no concern to those who get the folder
    report.save(output / "report.json")
    prepared.write_whole(output / "README.md", make_card(manifest, processor, features, splits, report))
    counts = ", ".join(f"{count:,} {split}" for split, (count, _, _) in splits.items())
    say(
        f"prepared {counts} samples in {output}; train: scripts/train.py {args.config or args.benchmark} "
        f"--data_dir {output}"
    )


def tell_how(benchmark):
    """Print where a benchmark, or each of them, is obtained."""
    from modeling_lfm.data.sources import SOURCES, how

    print("\n\n".join(how(name) for name in ([benchmark] if benchmark else SOURCES)))


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        arguments.show_help(HELP.format(settings=arguments.describe(PrepareArguments)))
    args = parse_arguments(argv)
    if args.how:
        return tell_how(args.benchmark)
    if not sys.stderr.isatty():
        hide_progress_bars()
    prepare(args)


if __name__ == "__main__":
    run(main)
