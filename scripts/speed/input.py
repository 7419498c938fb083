"""The input pipeline: clips and pictures a second in each stage, from raw files and prepared, and how long training
waits."""

import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.audio_lfm import fit_length, log_spectrogram, read_waveform
from modeling_lfm.data import AugmentedDataset, LfmDataCollator, load_benchmark, prepare_dataset
from modeling_lfm.frontend_lfm import LogSpectrogram
from modeling_lfm.media_lfm import image_pixels, read_image
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.prepare import make_clips
from modeling_lfm.scripts.speed.suite import Row, Spread
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.callbacks import LfmProgressCallback
from modeling_lfm.video_lfm import evenly_spaced, read_frames

RATE = 16000


def measure(bench):
    """See `benchmark_suite`."""
    datasets.disable_progress_bars()
    config = read_config("crema_d")
    processor = LfmProcessor(config["processor"])
    with tempfile.TemporaryDirectory() as scratch:
        folder, count = Path(scratch), 10 if bench.quick else 60
        size = (72, 96) if bench.quick else (360, 480)
        make_clips(folder / "clips", count, size)
        yield from measure_stages(bench, folder / "clips")
        yield from measure_pictures(bench, folder / "pictures", size)
        raw = load_benchmark("crema_d", folder / "clips", "train", validation=0, cache_dir=str(folder / "cache"))
        start = time.perf_counter()
        prepared = prepare_dataset(raw, processor)
        whole = len(raw) / (time.perf_counter() - start)
        yield Row("preparing, all stages and writing, one process", whole, unit="clips/s", note="480 x 360, 3 s")
        yield from measure_reading(bench, raw, prepared, processor)
        yield from measure_waiting(bench, prepared, processor, config)


def measure_stages(bench, folder):
    """Rows of decoding, resizing and spectrograms, one core."""
    count = 2 if bench.quick else 12
    flvs = sorted((folder / "VideoFlash").glob("*.flv"))[:count]
    wavs = [file.parents[1] / "AudioWAV" / f"{file.stem}.wav" for file in flvs]
    frames = [read_frames(file, choose_ten) for file in flvs]
    waves = [fit_length(read_waveform(file, RATE), 3 * RATE) for file in wavs]
    batch, frontend = torch.stack([torch.as_tensor(wave) for wave in waves]).to(bench.device), LogSpectrogram({})
    expected = torch.stack([torch.as_tensor(log_spectrogram(wave, 512, 159)) for wave in waves])
    found = frontend(batch)[:, 0].cpu()
    functions = {
        "video: decode 10 frames of 90": lambda: [read_frames(file, choose_ten) for file in flvs],
        "video: resize them to 224 x 224": lambda: [[image_pixels(i, (224, 224), 3) for i in clip] for clip in frames],
        "sound: decode": lambda: [read_waveform(file, RATE) for file in wavs],
        "sound: spectrogram by librosa": lambda: [log_spectrogram(wave, 512, 159) for wave in waves],
        "sound: spectrogram in the model, one batch": lambda: frontend(batch),
    }
    times = bench.alternate(functions, 1 if bench.quick else 5)
    for name in functions:
        speed = Spread.of(count / seconds for seconds in times.seconds[name])
        checks = {}
        if name.startswith("sound: spectrogram in"):
            right = bool((found - expected).abs().max() < 1e-4)
            checks = {"correct": right, "check": "equal to librosa's to 1e-4"}
        yield speed.row(name, unit="clips/s", **checks)


def choose_ten(count):
    """The frames that are stored of a clip."""
    return evenly_spaced(count, 10)


def measure_pictures(bench, folder, size):
    """Rows of decoding and resizing photographs (JPEG), one core."""
    count = 2 if bench.quick else 60
    folder.mkdir()
    rows, columns = np.mgrid[: size[0], : size[1]]
    for number in range(count):
        waves = [128 + 80 * np.sin((columns + number * rows) / 25 + shift) for shift in range(3)]
        noise = np.random.default_rng(number).normal(0, 8, (*size, 3))
        pixels = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.jpg", quality=90)
    files = sorted(folder.glob("*.jpg"))
    pictures = [read_image(file) for file in files]
    functions = {
        "picture: decode a JPEG": lambda: [read_image(file) for file in files],
        "picture: resize it to 224 x 224": lambda: [image_pixels(picture, (224, 224), 3) for picture in pictures],
    }
    times = bench.alternate(functions, 1 if bench.quick else 5)
    for name in functions:
        yield Spread.of(count / seconds for seconds in times.seconds[name]).row(name, unit="pictures/s")


class RawDataset(Dataset):
    """Samples as [`prepare_dataset`] gives them, made from raw media whenever they are asked for."""

    def __init__(self, raw, processor):
        self.raw, self.processor = raw, processor

    def __len__(self):
        return len(self.raw)

    def __getitem__(self, index):
        sample = self.raw[index]
        arrays = {name: self.processor.encode(name, sample[name]) for name in self.processor.modalities}
        return {**{f"{name}_values": torch.as_tensor(v) for name, v in arrays.items()}, "labels": sample["label"]}


def measure_reading(bench, raw, prepared, processor):
    """Rows of a DataLoader on raw and on prepared data, with random frames and crops, by number of workers."""
    few = range(2 if bench.quick else 32)  # it takes as long as preparing
    sources = {"raw files": RawDataset(raw.select(few), processor), "prepared data": prepared}
    same, speeds = read_the_same(sources["raw files"], prepared, processor), {}
    for workers in (0, 1) if bench.quick else (0, 1, 2):
        for name, dataset in sources.items():
            loader = DataLoader(
                AugmentedDataset(dataset, processor),
                batch_size=8,
                collate_fn=LfmDataCollator(processor),
                num_workers=workers,
                persistent_workers=workers > 0,
            )
            rounds = 1 if bench.quick else 2 if dataset is not prepared else 5
            times = bench.alternate({name: lambda loader=loader: sum(1 for _ in loader)}, rounds)
            speeds[name] = Spread.of(len(dataset) / seconds for seconds in times.seconds[name])
            note = "" if dataset is not prepared else f"{speeds[name].median / speeds['raw files'].median:.0f} x raw"
            what = f"reading {name}, {workers} workers"
            yield speeds[name].row(what, unit="clips/s", correct=same, check="the same batch", note=note)


def read_the_same(one, other, processor):
    """Whether two data sets give the same first samples (`bool`), random frames and crops included."""
    collate = LfmDataCollator(processor)
    first, second = (collate([AugmentedDataset(dataset, processor)[i] for i in (0, 1)]) for dataset in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class WaitingTime(TrainerCallback):
    """Seconds between the end of a step and the start of the next one, and of the steps; the first do not count."""

    def __init__(self, skip=2):
        self.skip, self.seen, self.waited, self.stepped, self.mark = skip, 0, 0.0, 0.0, None

    def on_step_begin(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.seen += 1
        if self.seen > self.skip + 1:
            self.waited += now - self.mark
        self.mark = now

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        if self.seen > self.skip:
            self.stepped += now - self.mark
        self.mark = now


def measure_waiting(bench, dataset, processor, config):
    """The row of how long training with real towers waits."""
    sizes = {"model_args": models.TINY_ARGS} if bench.quick else {}
    modalities = {"audio": models.resnet(1, **sizes), "video": models.resnet(3, **sizes)}
    batch_size = 2 if bench.quick else 8 if bench.suite == "cpu" else 64
    names = dataset.features["labels"].names
    with tempfile.TemporaryDirectory() as folder:
        watch = WaitingTime()
        trainer = LfmTrainer(
            model=LfmForMultimodalClassification(LfmConfig(modalities, hidden_size=512, num_labels=len(names))),
            args=LfmTrainingArguments(
                folder,
                method="concat",
                max_steps=4 if bench.quick else 10 if bench.suite == "cpu" else 100,
                per_device_train_batch_size=batch_size,
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=bench.suite == "cpu",
                dataloader_num_workers=0 if bench.suite == "cpu" else 4,
            ),
            train_dataset=AugmentedDataset(dataset, processor),
            data_collator=LfmDataCollator(processor),
            callbacks=[watch],
        )
        trainer.pop_callback(LfmProgressCallback)
        trainer.train()
    share = 100 * watch.waited / (watch.waited + watch.stepped)
    note = f"ResNet18 + ResNet18, batch {batch_size}, {trainer.args.dataloader_num_workers} workers"
    bench.details["waiting"] = {"waited": watch.waited, "stepped": watch.stepped}
    yield Row("share of training that waits for prepared data", share, goal="waiting for data", note=note)
