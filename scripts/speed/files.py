"""Speed of what begins with files: reading them, and preparing them."""

import tempfile
import time
from itertools import islice

import datasets
import numpy as np
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeling_lfm import LfmProcessor
from modeling_lfm.data import AugmentedDataset, LfmDataCollator, prepare_dataset
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Row, ratios


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


def make_processor(side, **image):
    image = {"type": "image", "size": [side, side], **image}
    return LfmProcessor({"audio": {"type": "spectrogram"}, "image": image})


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
        varied = AugmentedDataset(prepared, make_processor(setup.pick(32, 224), augment=True))
        loaders = {
            (what, workers): DataLoader(
                data, 8, collate_fn=collate, num_workers=workers, persistent_workers=workers > 0
            )
            for what, data in (("prepared data", prepared), ("prepared data, augmented", varied))
            for workers in setup.pick((0,), (0, 1, 2))
        }
        functions = {key: lambda loader=loader: sum(1 for _ in loader) for key, loader in loaders.items()}
        memory = {
            "own memory": torch.empty_like,
            "shared memory": lambda value: torch.empty_like(value).share_memory_(),
        }
        for where, make in memory.items():
            functions[where] = lambda make=make: [make(value).copy_(value) for value in plain.values()]
        times = setup.take_turns({"raw": lambda: processor(**few), **functions})
        slow = [12 / seconds for seconds in times["raw"]]
        yield Row("reading raw files", slow, "samples/s", right=same, note="the same batch")
        for what, workers in loaders:
            fast = [count / seconds for seconds in times[what, workers]]
            note = f"{np.median(ratios(fast, slow)):.0f} x raw"
            yield Row(f"reading {what}, {workers} workers", fast, "samples/s", note=note)
        for where in memory:
            yield Row(f"copying a batch to {where}", [12 / seconds for seconds in times[where]], "samples/s")
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
