"""Measure the pipeline on raw files, against the bare model's forward and the processor alone."""

import json
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import runs
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run
from modeling_lfm.scripts.speed.prepare import write_clip

HELP = """
Measure the latency of the pipeline: what it adds to the model's own time, and the share of reading files.

usage: python scripts/benchmark_pipeline.py [--setting value ...]
       python -m modeling_lfm.scripts.benchmark_pipeline [--setting value ...]

Files are made: wav of 3 s, jpg of 480 x 360, clips with 90 such frames, {distinct} of each. Without a checkpoint, two
models with fresh weights are measured, of audio (257 x 299) and image: resnet18, two ResNet18 (image 224 x 224), and
small, two narrow ones with four blocks each (image 32 x 32).

examples:
  python scripts/benchmark_pipeline.py
  python scripts/benchmark_pipeline.py --checkpoint outputs/crema_d --batches 1 8 --json measured.json

settings:
{settings}

The table holds, for each number of samples that are given at once: a call of the pipeline, of the model's forward alone
on tensors that are ready, and of the processor alone on the same files; what the pipeline adds to forward and
pre-processing, a sample; and the share of pre-processing in the call. Medians, quartiles in brackets. The last two
columns are measured within each call of the pipeline, so that other programs disturb them less. The JSON holds the
same (milliseconds, and a share from 0 to 1), and the first call, in which libraries are loaded.
"""
DISTINCT = 4
SIZE = (360, 480)
SENTENCE = "a sentence of about a dozen words, as people write them in tweets"
SPECTROGRAM = {"type": "spectrogram"}
SMALL = {"channels": [16, 16, 32, 32], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 16}
MODELS = {  # arguments of the towers, and size of the image
    "resnet18": ({}, [224, 224]),
    "small": ({"model_args": SMALL}, [32, 32]),
}


@dataclass
class BenchmarkArguments:
    """What is measured."""

    checkpoint: str | None = field(
        default=None, metadata={"help": "Folder of a model, or a model on the Hub; two made on the spot if not given."}
    )
    batches: list = field(
        default_factory=lambda: [1, 32], metadata={"help": "Samples that are given, and computed, at once."}
    )
    repeats: int = field(
        default=20, metadata={"help": "Calls of each kind that count, for one sample; for 32 a quarter of them."}
    )
    device: str | None = field(
        default=None, metadata={"help": "Such as cpu or cuda:0; that of the pipeline otherwise."}
    )
    threads: int | None = field(default=None, metadata={"help": "Of torch, on a CPU; one for each core if not given."})
    json: str | None = field(default=None, metadata={"help": "The JSON file to write."})


def make_model(name):
    """A model of [`MODELS`] and its processor."""
    import torch

    from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor

    args, size = MODELS[name]
    tower = {"tower": "timm", "name": "resnet18", **args}
    torch.manual_seed(0)
    config = LfmConfig({"audio": {**tower, "in_chans": 1}, "image": tower}, num_labels=10)
    processor = LfmProcessor({"audio": SPECTROGRAM, "image": {"type": "image", "size": size}})
    return LfmForMultimodalClassification(config).eval(), processor


def make_files(folder):
    """[`DISTINCT`] raw inputs of each type of a processor (`list[dict]` by type), files in `folder` (`Path`)."""
    import av

    files = []
    for number in range(DISTINCT):
        wav, flv, jpg = (folder / f"{number}.{ending}" for ending in ("wav", "flv", "jpg"))
        write_clip(wav, flv, number, SIZE)
        with av.open(str(flv)) as container:
            next(container.decode(video=0)).to_image().save(jpg, quality=90)
        files.append({"spectrogram": wav, "image": jpg, "video": flv, "flow": flv, "text": SENTENCE})
    return files


class Stopwatch:
    """Seconds within a call that parts of a pipeline take: `spent` (`dict`), the model's forward and pre-processing."""

    def __init__(self, pipeline):
        self.pipeline, self.spent = pipeline, {}
        self.parts = [(pipeline.model, "forward", "forward")]
        self.parts += [(pipeline.processor, name, "preprocessing") for name in ("encode", "stack")]

    def __enter__(self):
        for owner, name, part in self.parts:
            setattr(owner, name, self._timed(getattr(owner, name), part))
        return self

    def __exit__(self, *error):
        for owner, name, _ in self.parts:
            delattr(owner, name)

    def _timed(self, function, part):
        def call(*args, **kwargs):
            start, inner = self.now(), self.spent.get(part, 0.0)
            result = function(*args, **kwargs)
            self.spent[part] = inner + self.now() - start  # not what a call within this one has added, too
            return result

        return call

    def now(self):
        """Seconds (`float`), after the device has done what it was given."""
        if self.pipeline.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.pipeline.device)
        return time.perf_counter()

    def time(self, function):
        """Seconds (`float`) of a call."""
        self.spent = {}
        start = self.now()
        function()
        return self.now() - start


@contextmanager
def use_threads(number):
    """Let torch compute on so many cores (`int`; as many as it wants if None)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_batch(watch, samples, size, repeats):
    """Milliseconds of calls with `size` samples (`dict` of lists)."""
    import torch

    pipeline = watch.pipeline
    inputs = [samples[number % len(samples)] for number in range(size)]
    given = inputs[0] if size == 1 else inputs
    columns = {name: [sample[name] for sample in inputs] for name in inputs[0]}
    tensors = {key: value.to(pipeline.device) for key, value in pipeline.processor(**columns).items()}

    def forward():
        with torch.inference_mode():
            pipeline.model(**tensors)

    calls = {
        "pipeline": lambda: pipeline(given, batch_size=size),
        "forward": forward,
        "processor": lambda: pipeline.processor(**columns),
    }
    found = {key: [] for key in (*calls, "preprocessing_share", "overhead_per_sample")}
    for number in range(repeats + 1):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            seconds = watch.time(calls[name])
            if number == 0:  # to warm up
                continue
            found[name].append(1000 * seconds)
            if name == "pipeline":
                spent = watch.spent
                found["preprocessing_share"].append(spent["preprocessing"] / seconds)
                found["overhead_per_sample"].append(1000 * (seconds - sum(spent.values())) / size)
    return found


def summarize(values):
    """Median and quartiles (`dict`) of a list of numbers."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def measure(model, processor, files, args):
    """All numbers of one model (`dict`), on what [`make_files`] gives."""
    from modeling_lfm import MultimodalClassificationPipeline

    names = model.config.modality_names
    samples = [{name: raw[processor.modalities[name]["type"]] for name in names} for raw in files]
    pipeline = MultimodalClassificationPipeline(model, processor, device=args.device)
    with Stopwatch(pipeline) as watch:
        first = watch.time(lambda: pipeline(samples[0]))
        batches = {}
        for size in args.batches:
            repeats = args.repeats if size < 32 else max(3, args.repeats // 4)
            found = measure_batch(watch, samples, size, repeats)
            batches[size] = {key: summarize(values) for key, values in found.items()} | {"repeats": repeats}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "inputs": {name: processor.modalities[name]["type"] for name in names},
        "device": str(pipeline.device),
        "first_call": round(1000 * first, 1),
        "batches": batches,
    }


def show(found):
    """The table (`str`) of what [`measure`] found of each model."""
    lines = [["model", "samples", "pipeline, ms", "forward, ms", "processor, ms", "added, ms", "pre-processing, %"]]
    for name, numbers in found.items():
        for size, row in numbers["batches"].items():
            times = [_spread(row[key], 1) for key in ("pipeline", "forward", "processor")]
            share = _spread(row["preprocessing_share"], 1, 100)
            lines.append([name, str(size), *times, _spread(row["overhead_per_sample"], 2), share])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _spread(value, digits, factor=1):
    median, low, high = (f"{factor * value[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def check(args):
    """Raise a `ValueError` for settings with which nothing can be measured."""
    whole = {"batches": args.batches, "repeats": [args.repeats], "threads": [args.threads or 1]}
    for name, values in whole.items():
        least = 2 if name == "repeats" else 1
        if not values or not all(isinstance(value, int) and value >= least for value in values):
            raise ValueError(f"{name}={getattr(args, name)!r} must be whole numbers from {least} on.")


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        settings = arguments.describe(BenchmarkArguments)
        arguments.show_help(HELP.format(settings=settings, distinct=DISTINCT))
    (args,) = arguments.build(arguments.read_settings(argv), BenchmarkArguments)
    check(args)
    given = args.checkpoint is not None
    models = {Path(args.checkpoint).name: runs.load_run(args.checkpoint)} if given else dict.fromkeys(MODELS)
    found = {}
    with tempfile.TemporaryDirectory() as scratch, use_threads(args.threads):
        files = make_files(Path(scratch))
        for name, loaded in models.items():
            found[name] = measure(*(loaded or make_model(name)), files, args)
    print(show(found))
    if args.json is not None:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
