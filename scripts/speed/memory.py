"""Memory: the peaks of preparing data and of training on it, for growing data sets, in a process of their own."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from modeling_lfm.scripts.speed.suite import Row

PHASES = ("preparing", "training")
COUNTS = (16, 64, 256)  # pictures: once, 4 times and 16 times


def measure(bench):
    """See `benchmark_suite`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "modeling_lfm.scripts.benchmark_memory", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    peaks = json.loads(done.stdout.strip().splitlines()[-1])
    bench.details["megabytes"] = peaks
    for phase in PHASES:
        sizes = [peaks[str(count)][phase] for count in COUNTS]
        yield Row(
            f"peak of {phase}, {COUNTS[-1]} pictures over {COUNTS[0]}",
            sizes[-1] / sizes[0],
            goal=f"peak of {phase}, 16 times the data over once",
            note=" / ".join(f"{size:.0f}" for size in sizes) + f" MB with {' / '.join(map(str, COUNTS))} pictures",
        )


class Peak:
    """The most anonymous memory (files that are mapped do not count) while it is open, in MB."""

    def __enter__(self):
        self.megabytes, self.open = 0.0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.open = False
        self.thread.join()

    def watch(self):
        while self.open:
            lines = Path("/proc/self/status").read_text().splitlines()
            now = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
            self.megabytes = max(self.megabytes, now)
            time.sleep(0.002)


def raw_data(folder, count):
    """Pictures of 200 kB, all different, in files, and a data set of their paths."""
    import datasets
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.bmp" for number in range(count)]
    for number, path in list(enumerate(paths))[len(list(folder.iterdir())) :]:  # earlier ones are there
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (260, 260, 3), dtype=np.uint8)).save(path)
    return datasets.Dataset.from_dict({"image": [str(path) for path in paths], "label": ["a", "b"] * (count // 2)})


def work(folder):
    """In the process: the peaks in MB (`dict` by number of pictures and phase), printed as JSON."""
    import datasets

    from modeling_lfm import LfmProcessor
    from modeling_lfm.data import LfmDataCollator, prepare_dataset
    from modeling_lfm.scripts.speed import models
    from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

    datasets.disable_progress_bars()
    processor, peaks = LfmProcessor({"image": {"type": "image", "size": [160, 160]}}), {}
    for count in (COUNTS[0], *COUNTS):  # the first is a warm-up
        raw = raw_data(folder / "pictures", count)
        with Peak() as preparing:
            data = prepare_dataset(raw, processor, class_names=["a", "b"], batch_size=8)
        args = LfmTrainingArguments(
            str(folder / "run"),
            method="concat",
            per_device_train_batch_size=8,
            max_steps=count // 8,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        model = models.make_model({"image": models.resnet(3, model_args=models.TINY_ARGS)}, num_labels=2)
        trainer = LfmTrainer(model, args, data, data_collator=LfmDataCollator(processor))
        with Peak() as training:
            trainer.train()
        peaks[count] = {"preparing": preparing.megabytes, "training": training.megabytes}
    print(json.dumps(peaks))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
