"""Prepares data sets of growing size and trains on them; prints the peaks of anonymous memory in MB, of one process."""

import json
import sys
import threading
import time
from pathlib import Path

import datasets
import numpy as np

from modeling_lfm import LfmProcessor
from modeling_lfm.data import LfmDataCollator, prepare_dataset
from tests.data.media import image_bytes
from tests.trainer.toy import resnet, toy_model


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
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (260, 260, 3), dtype=np.uint8)
        (folder / f"{number}.bmp").write_bytes(image_bytes(noise, "BMP"))
    paths = [str(folder / f"{number}.bmp") for number in range(count)]
    return datasets.Dataset.from_dict({"image": paths, "label": ["a", "b"] * (count // 2)})


def main(folder):
    from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

    folder, peaks = Path(folder), {}
    datasets.disable_progress_bars()
    processor = LfmProcessor({"image": {"type": "image", "size": [160, 160]}})
    for count in (24, 24, 96, 384):  # the first is a warm-up
        raw = raw_data(folder / "pictures", count)
        with Peak() as preparing:
            data = prepare_dataset(raw, processor, class_names=["a", "b"], batch_size=8)
        args = LfmTrainingArguments(
            str(folder / "run"), method="concat", per_device_train_batch_size=8, disable_tqdm=True, use_cpu=True
        )
        args.save_strategy, args.max_steps = "no", count // 8
        trainer = LfmTrainer(
            toy_model({"image": resnet(3)}, num_labels=2), args, data, data_collator=LfmDataCollator(processor)
        )
        with Peak() as training:
            trainer.train()
        peaks[count] = {"preparing": preparing.megabytes, "training": training.megabytes}
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(sys.argv[1])
