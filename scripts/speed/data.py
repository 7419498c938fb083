"""Speed of data: decoding, preparing and reading it, the memory that this takes, and how long training waits."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from modeling_lfm import LfmProcessor
from modeling_lfm.audio_lfm import fit_length, log_spectrogram, read_waveform
from modeling_lfm.data import AugmentedDataset, LfmDataCollator, load_benchmark, prepare_dataset
from modeling_lfm.frontend_lfm import LogSpectrogram
from modeling_lfm.media_lfm import image_pixels, read_image
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.clips import RATE, make_clips, write_picture
from modeling_lfm.scripts.speed.rows import Row
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.callbacks import LfmProgressCallback
from modeling_lfm.video_lfm import evenly_spaced, read_frames

PREPARE = Path(__file__).resolve().parents[1] / "prepare_data.py"


def reading(setup):
    """Clips and pictures a second in each stage, from raw files and prepared, and how long training waits."""
    datasets.disable_progress_bars()
    processor = LfmProcessor(read_config("crema_d")["processor"])
    with tempfile.TemporaryDirectory() as scratch:
        clips, cache = Path(scratch, "clips"), str(Path(scratch, "cache"))
        size = setup.pick((72, 96), (360, 480))
        make_clips(clips, setup.pick(10, 60), size)
        yield from stages(setup, clips, size)
        raw = load_benchmark("crema_d", clips, "train", validation=0, cache_dir=cache)
        start = time.perf_counter()
        prepared = prepare_dataset(raw, processor)
        speed = len(raw) / (time.perf_counter() - start)
        yield Row("preparing, all stages and writing, one process", [speed], "clips/s", note="480 x 360, 3 s")
        yield from loading(setup, raw, prepared, processor)
        yield waiting(setup, prepared, processor)


def stages(setup, folder, size):
    """Rows of decoding, resizing and spectrograms, one core."""
    count = setup.pick(2, 12)
    flvs, wavs = sorted(folder.rglob("*.flv"))[:count], sorted(folder.rglob("*.wav"))[:count]
    jpgs = [folder / f"{number}.jpg" for number in range(count)]
    for number, jpg in enumerate(jpgs):
        write_picture(jpg, number, size)
    frames = [read_frames(file, ten) for file in flvs]
    pictures = [read_image(file) for file in jpgs]
    waves = [fit_length(read_waveform(file, RATE), 3 * RATE) for file in wavs]
    batch, frontend = torch.stack([torch.as_tensor(wave) for wave in waves]).to(setup.device), LogSpectrogram({})
    expected = torch.stack([torch.as_tensor(log_spectrogram(wave, 512, 159)) for wave in waves])
    right = bool((frontend(batch)[:, 0].cpu() - expected).abs().max() < 1e-4)
    functions = {
        "video: decode 10 frames of 90": lambda: [read_frames(file, ten) for file in flvs],
        "video: resize them to 224 x 224": lambda: [[image_pixels(i, (224, 224), 3) for i in clip] for clip in frames],
        "sound: decode": lambda: [read_waveform(file, RATE) for file in wavs],
        "sound: spectrogram by librosa": lambda: [log_spectrogram(wave, 512, 159) for wave in waves],
        "sound: spectrogram in the model, one batch": lambda: frontend(batch),
        "picture: decode a JPEG": lambda: [read_image(file) for file in jpgs],
        "picture: resize it to 224 x 224": lambda: [image_pixels(picture, (224, 224), 3) for picture in pictures],
    }
    for what, seconds in setup.take_turns(functions).items():
        checks = {"right": right, "check": "equal to librosa's to 1e-4"} if "in the model" in what else {}
        yield Row(what, [count / value for value in seconds], f"{what.split(':')[0]}s/s", **checks)


def ten(count):
    """The frames that are stored of a clip."""
    return evenly_spaced(count, 10)


def loading(setup, raw, prepared, processor):
    """Rows of batches from raw files, and of a DataLoader on prepared data, by number of workers."""
    few = raw[: setup.pick(2, 16)]
    columns, count = {name: few[name] for name in processor.modalities}, len(few["label"])
    collate = LfmDataCollator(processor)
    batch, plain = processor(**columns), LfmDataCollator(processor)([prepared[i] for i in range(count)])
    same = all(torch.allclose(value, plain[name], atol=1e-5) for name, value in batch.items())
    seconds = setup.take_turns({"raw": lambda: processor(**columns)}, rounds=3)["raw"]
    raw_speed = [count / value for value in seconds]
    yield Row("reading raw files, 0 workers", raw_speed, "clips/s", right=same, check="the same batch")
    for workers in setup.pick((0,), (0, 1, 2)):
        dataset, keep = AugmentedDataset(prepared, processor), workers > 0
        loader = DataLoader(dataset, 8, collate_fn=collate, num_workers=workers, persistent_workers=keep)
        seconds = setup.take_turns({"read": lambda loader=loader: sum(1 for _ in loader)})["read"]
        row = Row(f"reading prepared data, {workers} workers", [len(dataset) / value for value in seconds], "clips/s")
        row.note = f"{row.measured / (sum(raw_speed) / len(raw_speed)):.0f} x raw"
        yield row


class WaitingTime(TrainerCallback):
    """Seconds between the end of a step and the start of the next one, and of the steps; the first do not count."""

    def __init__(self, skip=2):
        self.skip, self.seen, self.waited, self.stepped, self.mark = skip, 0, 0.0, 0.0, None

    def on_step_begin(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seen += 1
        self.waited += now - self.mark if self.seen > self.skip + 1 else 0
        self.mark = now

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.stepped += now - self.mark if self.seen > self.skip else 0
        self.mark = now


def waiting(setup, dataset, processor):
    """The row of how long training with real towers waits for prepared data."""
    sizes = setup.pick(models.TINY_ARGS, {})
    modalities = {"audio": models.resnet(1, **sizes), "video": models.resnet(3, **sizes)}
    batch, steps, workers = setup.pick((2, 4, 0), (8, 10, 0), (64, 100, 4))
    watch = WaitingTime()
    with tempfile.TemporaryDirectory() as folder:
        trainer = LfmTrainer(
            model=models.make_model(modalities),
            args=LfmTrainingArguments(
                folder,
                method="concat",
                max_steps=steps,
                per_device_train_batch_size=batch,
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=setup.device == "cpu",
                dataloader_num_workers=workers,
            ),
            train_dataset=AugmentedDataset(dataset, processor),
            data_collator=LfmDataCollator(processor),
            callbacks=[watch],
        )
        trainer.pop_callback(LfmProgressCallback)
        trainer.train()
    share = 100 * watch.waited / (watch.waited + watch.stepped)
    note = f"ResNet18 + ResNet18, batch {batch}, {workers} workers"
    return Row("share of training that waits for prepared data", [share], "%", most=3, note=note)


def preparation(setup):
    """prepare_data.py in two processes: clips a second, and the peak of its largest process as the data grow."""
    counts, found = setup.pick((10, 20), (120, 360)), []
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            clips, output = Path(scratch, f"clips_{count}"), Path(scratch, f"prepared_{count}")
            make_clips(clips, count, setup.pick((72, 96), (360, 480)))
            command = [sys.executable, str(PREPARE), "--benchmark", "crema_d", "--data_dir", str(clips)]
            found.append(watch([*command, "--output", str(output), "--num_proc", "2"]))
    (few, small), (many, large) = found
    speed = (counts[1] - counts[0]) / max(many - few, 1e-3)
    yield Row("prepare_data.py, of the additional clips", [speed], "clips/s", note=f"{counts[1]} clips in {many:.0f} s")
    note = f"{small:.0f} and {large:.0f} MB"
    yield Row(f"peak of its largest process, {counts[1]} clips over {counts[0]}", [large / small], most=1.1, note=note)


def watch(command):
    """Seconds of a program, and the most memory of one of its processes in MB."""
    start, peak = time.perf_counter(), 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):  # one has just ended
            peak = max([peak, *(p.memory_info().rss / 2**20 for p in [process, *process.children(recursive=True)])])
        time.sleep(0.05)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{process.stderr.read()[-2000:]}")
    return time.perf_counter() - start, peak


COUNTS = (16, 64, 256)  # pictures: once, 4 times and 16 times


def memory(setup):
    """The peaks of preparing data and of training on it, for growing data sets, in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "modeling_lfm.scripts.speed.data", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    peaks = json.loads(done.stdout.strip().splitlines()[-1])
    for phase, sizes in peaks.items():
        note = " / ".join(f"{size:.0f}" for size in sizes) + f" MB with {' / '.join(map(str, COUNTS))} pictures"
        yield Row(f"peak of {phase}, 16 times the data over once", [sizes[-1] / sizes[0]], most=1.1, note=note)


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


def work(folder):
    """In the process: the peaks in MB (`dict` by phase, of lists by number of pictures), printed as JSON."""
    datasets.disable_progress_bars()
    processor, peaks = LfmProcessor({"image": {"type": "image", "size": [160, 160]}}), {"preparing": [], "training": []}
    paths = [folder / f"{number}.bmp" for number in range(COUNTS[-1])]  # of 200 kB, all different
    for number, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (260, 260, 3), dtype=np.uint8)).save(path)
    for count in (COUNTS[0], *COUNTS):  # the first is a warm-up
        columns = {"image": [str(path) for path in paths[:count]], "label": ["a", "b"] * (count // 2)}
        with Peak() as preparing:
            raw = datasets.Dataset.from_dict(columns)
            data = prepare_dataset(raw, processor, class_names=["a", "b"], batch_size=8)
        model = models.make_model({"image": models.resnet(3, **models.TINY_ARGS)}, num_labels=2)
        settings = {"max_steps": count // 8, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
        args = LfmTrainingArguments(str(folder / "run"), method="concat", per_device_train_batch_size=8, **settings)
        trainer = LfmTrainer(model, args, data, data_collator=LfmDataCollator(processor))
        with Peak() as training:
            trainer.train()
        for phase, peak in zip(peaks, (preparing, training), strict=True):
            peaks[phase].append(peak.megabytes)
    print(json.dumps({phase: found[1:] for phase, found in peaks.items()}))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
