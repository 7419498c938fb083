"""Speed of what begins with files: reading them, preparing them, predicting from them, and the memory that it takes."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import islice

import datasets
import numpy as np
import psutil
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeling_lfm import LfmProcessor, MultimodalClassificationPipeline
from modeling_lfm.data import AugmentedDataset, LfmDataCollator, prepare_dataset
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, Setup, ratios


def write_files(folder, count, size):
    """Sounds of three seconds and photographs of `size` (height, width): a `dict` of columns with their paths."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    paths = {"audio": [f"{folder}/{n}.wav" for n in range(count)], "image": [f"{folder}/{n}.jpg" for n in range(count)]}
    for seed, (wav, jpg) in enumerate(zip(*paths.values(), strict=True)):
        rng = np.random.default_rng(seed)
        wave = 0.3 * np.sin(2 * np.pi * (200 + 40 * (seed % 12)) * np.arange(48_000) / 16_000)
        soundfile.write(wav, wave + 0.02 * rng.normal(size=len(wave)), 16_000, subtype="PCM_16")
        waves = 128 + 80 * np.stack([np.sin((columns + (seed + 1) * rows) / 25 + shift) for shift in range(3)], -1)
        pixels = waves + rng.normal(0, 8, waves.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(jpg, quality=90)
    return paths


def make_processor(side):
    return LfmProcessor({"audio": {"type": "spectrogram"}, "image": {"type": "image", "size": [side, side]}})


def reading(setup):
    """Samples a second from raw files, preparing them, and from prepared data; and how long training waits for it."""
    datasets.disable_progress_bars()
    processor, count = make_processor(setup.pick(32, 224)), setup.pick(12, 96)
    with tempfile.TemporaryDirectory() as scratch:
        columns = write_files(scratch, count, setup.pick((48, 64), (360, 480)))
        raw = datasets.Dataset.from_dict({**columns, "label": list("abcdef") * (count // 6)})
        start = time.perf_counter()
        prepared = prepare_dataset(raw, processor)
        yield Row("preparing and writing, one process", [count / (time.perf_counter() - start)], "samples/s")
        few, collate = {name: paths[:12] for name, paths in columns.items()}, LfmDataCollator(processor)
        batch, plain = processor(**few), collate([prepared[index] for index in range(12)])
        same = all(torch.allclose(value, plain[name], atol=1e-5) for name, value in batch.items())
        loaders = {
            workers: DataLoader(prepared, 8, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0)
            for workers in setup.pick((0,), (0, 1, 2))
        }
        functions = {workers: lambda loader=loader: sum(1 for _ in loader) for workers, loader in loaders.items()}
        times = setup.take_turns({"raw": lambda: processor(**few), **functions})
        slow = [12 / seconds for seconds in times["raw"]]
        yield Row("reading raw files", slow, "samples/s", right=same, note="the same batch")
        for workers in loaders:
            fast = [count / seconds for seconds in times[workers]]
            note = f"{np.median(ratios(fast, slow)):.0f} x raw"
            yield Row(f"reading prepared data, {workers} workers", fast, "samples/s", note=note)
        yield waiting(setup, scratch, prepared, processor)


def waiting(setup, folder, prepared, processor):
    """The row of how long training with real towers would wait for prepared data if nothing read ahead."""
    args, batch_size = setup.pick(models.TINY, {}), setup.pick(2, 8, 64)
    model = models.make_model({"audio": models.resnet(1, **args), "image": models.resnet(3, **args)})
    data = AugmentedDataset(prepared, processor)
    trainer = models.make_trainer(setup, folder, model, data, batch_size, processor=processor, max_steps=1)
    loader = DataLoader(data, batch_size, collate_fn=trainer.data_collator)
    step, number = models.make_step(trainer), min(len(loader), 8)
    times = setup.take_turns({"read": lambda: list(islice(loader, number)), "step": lambda: step().item()})
    shares = [100 * read / (read + number * seconds) for read, seconds in zip(*times.values(), strict=True)]
    note = f"ResNet18 + ResNet18, batch {batch_size}, no workers"
    return Row("share of training that waits for prepared data", shares, "%", most=3, note=note)


def pipeline(setup):
    """The latency of the pipeline on a sound and a picture in files, against the model and the processor alone."""
    args, side, size = setup.pick((models.TINY, 32, (48, 64)), ({}, 224, (360, 480)))
    model = models.make_model({"audio": models.resnet(1, **args), "image": models.resnet(3, **args)}).eval()
    processor = make_processor(side)
    classifier = MultimodalClassificationPipeline(model, processor, device=setup.device)
    for count in setup.pick((2,), (1, 32)):
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            columns = write_files(folder, count, size)
            samples = [dict(zip(columns, paths, strict=True)) for paths in zip(*columns.values(), strict=True)]
            tensors = {key: value.to(setup.device) for key, value in processor(**columns).items()}
            calls = {
                "pipeline": lambda s=samples: classifier(s, batch_size=len(s)),
                "forward": lambda t=tensors: model(**t),
                "processor": lambda c=columns: processor(**c),
            }
            whole, inner, before = setup.take_turns(calls, rounds=7).values()
        yield Row(f"a call of the pipeline, {count} at once", [1000 * value for value in whole], "ms")
        added = [1000 * (a - b - c) / count for a, b, c in zip(whole, inner, before, strict=True)]
        yield Row("added to forward and pre-processing, a sample", added, "ms")
        yield Row("share of pre-processing", [100 * value for value in ratios(before, whole)], "%")


COUNTS = (16, 64, 256)  # pictures: once, 4 times and 16 times


def memory(setup):
    """The peaks of preparing data and of training on it, for growing data sets, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "modeling_lfm.scripts.speed.files", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    for phase, sizes in json.loads(done.stdout.strip().splitlines()[-1]).items():
        note = " / ".join(f"{size:.0f}" for size in sizes) + f" MB with {' / '.join(map(str, COUNTS))} pictures"
        yield Row(f"peak of {phase}, 16 times the data over once", [sizes[-1] / sizes[0]], most=1.1, note=note)


@contextmanager
def peak_memory(found):
    """Append the most memory in MB while it is open, files that are mapped not counted, to `found` (`list`)."""
    process, done, peak = psutil.Process(), threading.Event(), [0.0]

    def watch():
        while True:  # once at least, however busy the machine is
            memory = process.memory_info()
            peak[0] = max(peak[0], (memory.rss - memory.shared) / 2**20)
            if done.wait(0.002):
                break

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    done.set()
    thread.join()
    found.append(peak[0])


def work(folder):
    """In the process: the peaks in MB (`dict` by phase, of lists by number of pictures), printed as JSON."""
    datasets.disable_progress_bars()
    processor, peaks = LfmProcessor({"image": {"type": "image", "size": [160, 160]}}), {"preparing": [], "training": []}
    paths = [f"{folder}/{number}.bmp" for number in range(COUNTS[-1])]  # of 200 kB, all different
    for number, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (260, 260, 3), dtype=np.uint8)).save(path)
    for count in (COUNTS[0], *COUNTS):  # the first is a warm-up
        raw = datasets.Dataset.from_dict({"image": paths[:count], "label": ["a", "b"] * (count // 2)})
        with peak_memory(peaks["preparing"]):
            data = prepare_dataset(raw, processor, class_names=["a", "b"], batch_size=8)
        model, steps = models.make_model({"image": models.resnet(3, **models.TINY)}), {"max_steps": count // 8}
        trainer = models.make_trainer(Setup(), folder, model, data, 8, processor=processor, **steps)
        with peak_memory(peaks["training"]):
            trainer.train()
    print(json.dumps({phase: found[1:] for phase, found in peaks.items()}))


if __name__ == "__main__":
    work(sys.argv[1])
