"""The memory that preparing pictures and training on them takes, in a process of its own."""

import json
import threading
from contextlib import contextmanager

import datasets
import numpy as np
import psutil
from PIL import Image

from modeling_lfm import LfmProcessor
from modeling_lfm.data import prepare_dataset
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.rows import Setup

COUNTS = (16, 64, 256)  # pictures: once, 4 times and 16 times


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
