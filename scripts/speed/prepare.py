"""Measure prepare_data.py and the reading of what it writes, on clips made for it in CREMA-D's layout."""

import itertools
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.scripts.common.console import run, write_json

HELP = """
Measure the preparation: clips per second, memory of the largest process, and how much faster training reads.

usage: python scripts/benchmark_prepare.py [--setting value ...]
       python -m modeling_lfm.scripts.benchmark_prepare [--setting value ...]

Clips of 3 s with sound are made under names of CREMA-D, {distinct} different ones, and prepared with the settings of
scripts/configs/crema_d.yaml (10 frames of 224 x 224, a spectrogram of 257 x 299); then a DataLoader reads them as
training does.

examples:
  python scripts/benchmark_prepare.py
  python scripts/benchmark_prepare.py --clips 60 120 --width 96 --height 72 --output measured.json

settings:
{settings}

The JSON holds, for each number of clips: seconds and cpu_seconds of the whole program, peak_mb of its largest process;
further clips_per_second (of the additional clips of the largest run, so that starting does not count), read_per_second
(of a DataLoader, with the random frames and crops of training) and their ratio; the same as time of cores in ms a clip,
which suffers less from other programs, and core_ratio; cache_seconds (once: from Parquet to Arrow).
"""
DISTINCT = 12
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
FPS, SECONDS, RATE = 30, 3, 16000
EPOCHS = 3  # that are read


@dataclass
class BenchmarkArguments:
    """What is measured."""

    clips: list = field(default_factory=lambda: [250, 1000], metadata={"help": "How many, ascending; one run each."})
    width: int = field(default=480, metadata={"help": "Pixels, of the clips; CREMA-D's own have 480 x 360."})
    height: int = field(default=360, metadata={"help": "Pixels, of the clips."})
    num_proc: int = field(default=2, metadata={"help": "Processes, of the preparation and of the DataLoader."})
    batch_size: int = field(default=64, metadata={"help": "Samples that are read at a time."})
    folder: str | None = field(default=None, metadata={"help": "Where files are made, and left; a temporary one else."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})


def make_clips(folder, count, size):
    """So many clips in CREMA-D's layout (train and test nine to one), of height and width `size`."""
    names = (
        f"{actor}_{sentence}_{emotion}_XX"
        for sentence, actor, emotion in itertools.product(SENTENCES, range(1001, 1092), EMOTIONS)
    )
    names = list(itertools.islice(names, count))
    if len(names) < count:
        raise ValueError(f"there are names for {len(names)} clips only, not for {count}.")
    for part in ("AudioWAV", "VideoFlash"):
        (folder / part).mkdir(parents=True)
    lines = {"train": [], "test": []}
    for number, name in enumerate(names):
        wav, flv = folder / "AudioWAV" / f"{name}.wav", folder / "VideoFlash" / f"{name}.flv"
        if number < DISTINCT:
            write_clip(wav, flv, number, size)
        else:
            shutil.copyfile(folder / "AudioWAV" / f"{names[number % DISTINCT]}.wav", wav)
            shutil.copyfile(folder / "VideoFlash" / f"{names[number % DISTINCT]}.flv", flv)
        lines["test" if number % 10 == 9 else "train"].append(f"{name},{name.split('_')[2]}\n")
    for split, part in lines.items():
        (folder / f"{split}.csv").write_text("".join(part))


def write_clip(wav, flv, seed, size):
    """A tone in noise, and a smooth coloured pattern that moves, with some noise."""
    import av
    import numpy as np
    import soundfile

    rng = np.random.default_rng(seed)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * seed) * np.arange(SECONDS * RATE) / RATE)
    soundfile.write(wav, wave + 0.02 * rng.normal(size=len(wave)), RATE, subtype="PCM_16")
    rows, columns = np.mgrid[: size[0], : size[1]]
    with av.open(str(flv), "w") as container:
        stream = container.add_stream("flv", rate=FPS)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(FPS * SECONDS):
            phase = (columns + (seed + 1) * rows + 3 * number) / 25
            picture = 128 + 80 * np.stack([np.sin(phase + shift) for shift in range(3)], -1)
            picture = picture + rng.normal(0, 8, picture.shape)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def prepare(data, output, processes):
    """Run prepare_data.py; its seconds, those of all cores, and the peak of its largest process in MB (`float`s)."""
    import psutil

    program = Path(__file__).parents[1] / "prepare_data.py"
    command = [sys.executable, str(program), "--benchmark", "crema_d", "--data_dir", str(data)]
    command += ["--output", str(output), "--num_proc", str(processes)]
    start, cpu, peak = time.perf_counter(), count_cpu(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max([peak, *(read_peak(part) for part in [process, *_children(process)])])
            time.sleep(0.05)
        if process.returncode != 0:
            log.seek(0)
            raise ValueError(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
    return time.perf_counter() - start, count_cpu() - cpu, peak


def count_cpu():
    """Seconds that the processes which this program started and which have ended computed (`float`), on all cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _children(process):
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def read_peak(process):
    """Most memory that a process (`psutil.Process`) had so far, in MB (`float`); 0 if it has ended."""
    import psutil

    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0)
    except (OSError, psutil.Error):
        return 0


def read(folder, processes, batch_size, cache_dir):
    """Read a prepared folder (`Path`) as training does.

    Returns:
        Seconds until the data set is open for the first time, samples a second, and seconds of cores a sample.
    """
    from torch.utils.data import DataLoader

    from modeling_lfm import LfmProcessor
    from modeling_lfm.data import AugmentedDataset, LfmDataCollator, load_prepared

    processor = LfmProcessor.from_pretrained(folder / "processor")
    start = time.perf_counter()
    dataset = load_prepared(folder, processor, split="train", cache_dir=cache_dir)
    opened = time.perf_counter() - start
    loader = DataLoader(
        AugmentedDataset(dataset, processor),
        batch_size=batch_size,
        shuffle=True,
        collate_fn=LfmDataCollator(processor),
        num_workers=processes,
        persistent_workers=processes > 0,
    )
    samples = EPOCHS * sum(len(batch["labels"]) for batch in loader)  # the workers start
    start, cpu = time.perf_counter(), count_own_cpu()
    for epoch in range(1, EPOCHS + 1):
        loader.dataset.set_epoch(epoch)
        for _ in loader:
            pass
    return opened, samples / (time.perf_counter() - start), (count_own_cpu() - cpu) / samples


def count_own_cpu():
    """Seconds that this program and its living processes have computed (`float`), on all cores."""
    import psutil

    own = psutil.Process()
    return sum(sum(part.cpu_times()[:2]) for part in [own, *_children(own)])


def measure(args, folder):
    """All numbers (`dict`)."""
    counts, seconds, cpu, runs = [0], [0.0], [0.0], {}
    for count in args.clips:
        data, output = folder / f"clips_{count}", folder / f"prepared_{count}"
        make_clips(data, count, (args.height, args.width))
        measured = prepare(data, output, args.num_proc)
        runs[count] = dict(
            zip(("seconds", "cpu_seconds", "peak_mb"), (round(value, 1) for value in measured), strict=True)
        )
        for values, value in zip((counts, seconds, cpu), (count, *measured), strict=False):
            values.append(value)
    more = counts[-1] - counts[-2]
    rate, core_seconds = more / (seconds[-1] - seconds[-2]), (cpu[-1] - cpu[-2]) / more
    opened, speed, read_core_seconds = read(output, args.num_proc, args.batch_size, str(folder / "cache"))
    return {
        "runs": runs,
        "clips_per_second": round(rate, 1),
        "core_ms_per_clip": round(1000 * core_seconds, 1),
        "read_per_second": round(speed, 1),
        "read_core_ms_per_clip": round(1000 * read_core_seconds, 2),
        "ratio": round(speed / rate, 1),
        "core_ratio": round(core_seconds / read_core_seconds, 1),
        "cache_seconds": round(opened, 1),
        "prepared_mb": round(sum(file.stat().st_size for file in output.glob("data/*.parquet")) / 1e6, 1),
    }


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        settings = arguments.describe(BenchmarkArguments)
        arguments.show_help(HELP.format(settings=settings, distinct=DISTINCT))
    (args,) = arguments.build(arguments.read_settings(argv), BenchmarkArguments)
    if args.folder is not None:
        Path(args.folder).mkdir(parents=True)
        return write_json(measure(args, Path(args.folder)), args.output)
    with tempfile.TemporaryDirectory() as scratch:
        write_json(measure(args, Path(scratch)), args.output)


if __name__ == "__main__":
    run(main)
