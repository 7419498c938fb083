"""What is random in training: frames within their segments, one crop a clip, and the same draws after a resume."""

import copy
import random

import datasets
import numpy as np
import pytest
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import DataLoader
from torchvision.transforms import functional

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data import AugmentedDataset, LfmDataCollator, prepare_dataset
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.collator import SampleIdDataset
from modeling_lfm.trainer.holdout import read_labels, split_holdout

from ..trainer.toy import SaveAt, shallow_resnet
from .media import read_number, write_video

SIZE = [48, 64]
VIDEO = {"type": "video", "size": SIZE, "mean": 0.0, "std": 1.0}
GREY = {**VIDEO, "num_channels": 1}
AUGMENT = {"scale": [0.3, 0.9], "ratio": [0.8, 1.25], "flip": 0.5}
MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def slope(number, size):
    """A picture that grows brighter to the right and to the bottom, and a little from frame to frame."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.repeat((2 * rows + columns + number)[:, :, None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Clips of 20 numbered frames, and clips of slopes, with two classes, on disk, where a cache has its place."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [write_video(folder / f"{i}.avi", frames=20, sound=None, codec="rawvideo") for i in range(2)]
    slopes = [
        write_video(folder / f"s{i}.avi", frames=20, sound=None, codec="rawvideo", picture=slope) for i in range(2)
    ]
    columns = {
        "video": [{"bytes": None, "path": str(paths[i % 2])} for i in range(40)],
        "slope": [{"bytes": None, "path": str(slopes[i % 2])} for i in range(40)],
        "label": [i % 2 for i in range(40)],
    }
    label = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"video": dict(MEDIA), "slope": dict(MEDIA), "label": label})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "raw")
    return datasets.load_from_disk(folder / "raw")


def prepare(raw, settings, columns):
    processor = LfmProcessor(settings)
    return prepare_dataset(raw, processor, columns), processor


def frame_numbers(sample):
    return [read_number(frame.permute(1, 2, 0).numpy()) for frame in sample["video_values"]]


def test_frames_are_drawn_within_their_segments(raw):
    prepared, processor = prepare(raw, {"video": VIDEO}, {"video": "video"})
    assert processor.kinds["video"].segments == [(0, 3), (3, 7), (7, 10)]
    augmented = AugmentedDataset(prepared, processor, seed=3)
    seen = []
    for epoch in range(10):
        augmented.set_epoch(epoch)
        seen += [frame_numbers(augmented[index]) for index in range(40)]
    stored = list(range(1, 20, 2))
    for place, (start, stop) in enumerate(processor.kinds["video"].segments):
        counts = [sum(frames[place] == number for frames in seen) for number in stored]
        assert sum(counts[start:stop]) == 400
        assert min(counts[start:stop]) > 0.7 * 400 / (stop - start), "all about as often"
    batch = LfmDataCollator(processor)([prepared[0], prepared[1]])
    assert frame_numbers({"video_values": 255 * batch["video_values"][0]}) == [stored[n] for n in (1, 5, 8)]
    assert batch["video_values"].shape == (2, 3, 3, *SIZE)
    drawn = LfmDataCollator(processor)([augmented[0], augmented[1]])
    assert drawn["video_values"].shape == (2, 3, 3, *SIZE)
    assert drawn["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("stored", range(1, 14))
def test_segments_hold_their_centres(stored):
    for count in range(1, stored + 1):
        kind = LfmProcessor({"v": {**VIDEO, "stored_frames": stored, "num_frames": count}}).kinds["v"]
        assert [part[0] for part in kind.segments] == [0, *(part[1] for part in kind.segments)][:-1]
        assert kind.segments[-1][1] == stored
        assert all(start <= centre < stop for centre, (start, stop) in zip(kind.centres, kind.segments, strict=True))
        assert kind.varies == (count < stored)


def test_draws_depend_on_seed_epoch_and_position_alone(raw):
    prepared, processor = prepare(raw, {"video": {**VIDEO, "augment": AUGMENT}}, {"video": "video"})

    def read(seed=0, epoch=0, order=range(40), **loader):
        data = AugmentedDataset(prepared, processor, seed)
        data.set_epoch(epoch)
        rows = {}
        for indices, batch in zip(
            np.array_split(list(order), 10),
            DataLoader(
                data,
                batch_sampler=[part.tolist() for part in np.array_split(list(order), 10)],
                collate_fn=LfmDataCollator(processor),
                **loader,
            ),
            strict=True,
        ):
            rows |= dict(zip(indices.tolist(), batch["video_values"], strict=True))
        return torch.stack([rows[index] for index in range(40)])

    first = read()
    random.seed(99)
    assert torch.equal(read(), first)
    assert torch.equal(read(order=np.random.default_rng(0).permutation(40)), first)
    assert torch.equal(read(num_workers=2), first)
    assert torch.equal(
        torch.stack([AugmentedDataset(prepared, processor)[i]["video_values"] for i in range(40)]) / 255, first
    )
    assert not torch.equal(read(seed=1), first)
    assert not torch.equal(read(epoch=1), first)
    assert len({row.numpy().tobytes() for row in first}) == 40


def test_workers_that_live_on_see_the_epoch(raw):
    prepared, processor = prepare(raw, {"video": VIDEO}, {"video": "video"})
    data = AugmentedDataset(prepared, processor)
    loader = DataLoader(
        data, batch_size=20, num_workers=1, persistent_workers=True, collate_fn=LfmDataCollator(processor)
    )
    for epoch in (0, 3):
        data.set_epoch(epoch)
        read = torch.cat([batch["video_values"] for batch in loader])
        assert torch.equal(read, torch.stack([data[i]["video_values"] for i in range(40)]) / 255)


def test_random_state_of_the_program_stays(raw):
    prepared, processor = prepare(raw, {"video": {**VIDEO, "augment": True}}, {"video": "video"})
    data = AugmentedDataset(prepared, processor)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    data[0]
    data.__getitems__([1, 2])
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_one_crop_for_all_frames_and_modalities(raw):
    """The crops of colours, depth and flow of a clip, whatever is between them, are those that timm draws."""
    settings = {
        "rgb": {**VIDEO, "augment": AUGMENT},
        "depth": {**GREY, "augment": AUGMENT},
        "still": {"type": "image", "size": SIZE, "augment": AUGMENT},
        "flow": {"type": "flow", "size": SIZE, "augment": AUGMENT, "bound": 12.7},
    }
    processor = LfmProcessor(settings)
    data = AugmentedDataset([None] * 30, processor)
    stored = torch.tensor(np.stack([slope(10 * n, SIZE) for n in range(10)])).permute(0, 3, 1, 2).contiguous()
    moves = torch.zeros(9, 2, *SIZE, dtype=torch.int8)
    moves[:, 0, :, :] = torch.arange(64, dtype=torch.int8) - 32  # tenths of pixels
    moves[:, 1, :, :] = 20
    sample = {"rgb_values": stored, "depth_values": stored[:, :1], "still_values": stored[0], "flow_values": moves}
    data.unaugmented = [{**sample, "labels": 0}] * 30
    flips = 0
    for index in range(30):
        random.seed(f"frames 0 0 {index}")
        places = [start + int(random.random() * (stop - start)) for start, stop in ((0, 3), (3, 7), (7, 10))]
        random.seed(f"crop 0 0 {index}")
        flip = random.random() < 0.5
        box = RandomResizedCropAndInterpolation.get_params(stored, AUGMENT["scale"], AUGMENT["ratio"])
        flips += flip

        def reference(values, box=box, flip=flip):
            values = functional.resized_crop(values, *box, SIZE, functional.InterpolationMode.BILINEAR, antialias=True)
            return functional.hflip(values) if flip else values

        found = data[index]
        assert found["labels"] == 0
        expected = reference(stored[places])  # torchvision rounds in another way
        for key, values in (("rgb", expected), ("depth", expected[:, :1]), ("still", reference(stored[0]))):
            torch.testing.assert_close(found[f"{key}_values"], values, rtol=0, atol=1)
        assert found["rgb_values"].dtype == torch.uint8
        # Displacements are those of the cut part when it fills the whole; what moves to the right moves to the left.
        scale = torch.tensor([SIZE[1] / box[3], SIZE[0] / box[2]])[:, None, None]
        expected = reference(moves[:3].float() * scale)
        expected[:, 0] *= -1 if flip else 1
        torch.testing.assert_close(found["flow_values"], expected / 127 / 0.125, rtol=1e-4, atol=1e-4)
        batch = processor.stack("flow", [found["flow_values"]])
        assert torch.equal(batch["flow_values"][0], found["flow_values"])
    assert 5 < flips < 25


def test_evaluation_is_not_augmented(raw):
    plain, processor = prepare(raw, {"slope": VIDEO}, {"slope": "slope"})
    prepared, augmenting = prepare(raw, {"slope": {**VIDEO, "augment": True}}, {"slope": "slope"})
    assert prepared.cache_files == plain.cache_files != [], "what is stored is the same"
    one, other = (LfmDataCollator(p)([d[0]]) for p, d in ((processor, plain), (augmenting, prepared)))
    assert torch.equal(one["slope_values"], other["slope_values"])
    value = raw[0]["slope"]
    assert torch.equal(processor(slope=value)["slope_values"], augmenting(slope=value)["slope_values"])
    assert torch.equal(one["slope_values"], processor(slope=value)["slope_values"])


def test_data_sets_without_chance_pass_through(raw):
    settings = {"video": {**VIDEO, "stored_frames": 3}, "still": {"type": "image", "size": SIZE}}
    processor = LfmProcessor(settings)
    assert not processor.varies
    prepared = prepare_dataset(raw, processor, {"video": "video"})
    assert torch.equal(AugmentedDataset(prepared, processor)[4]["video_values"], prepared[4]["video_values"])


def test_what_is_held_out_is_not_augmented(raw):
    prepared, processor = prepare(raw, {"video": {**VIDEO, "augment": AUGMENT}}, {"video": "video"})
    augmented = AugmentedDataset(prepared, processor, seed=5)
    augmented.set_epoch(2)
    assert len(augmented) == 40
    assert augmented.column_names == prepared.column_names
    assert read_labels(augmented).tolist() == [i % 2 for i in range(40)]
    rest, held = split_holdout(augmented, 0.25, seed=0)
    assert isinstance(rest, AugmentedDataset)
    assert isinstance(held, datasets.Dataset)
    assert len(rest) + len(held) == 40  # of two different clips, each stays on its side
    assert (rest.epoch, rest.seed) == (2, 5)
    assert held[0]["video_values"].shape == (10, 3, *SIZE)
    assert rest[0]["video_values"].shape == (3, 3, *SIZE)
    rest.set_epoch(4)
    assert augmented.epoch == 2
    listed = AugmentedDataset([prepared[i] for i in range(8)], processor)
    assert not hasattr(listed, "column_names")
    rest, held = split_holdout(listed, 2, seed=0)
    assert (len(rest), len(held)) == (6, 2)
    assert held[0]["video_values"].shape == (10, 3, *SIZE)
    other = copy.copy(augmented)
    other.set_epoch(7)
    assert (augmented.epoch, other.epoch) == (2, 7)


def make_trainer(folder, raw, method, **settings):
    prepared, processor = prepare(
        raw, {"rgb": {**VIDEO, "augment": AUGMENT}, "depth": GREY}, dict.fromkeys(("rgb", "depth"), "video")
    )
    config = LfmConfig({"rgb": shallow_resnet(3), "depth": shallow_resnet(1)}, hidden_size=8, num_labels=2)
    torch.manual_seed(0)
    args = LfmTrainingArguments(
        output_dir=str(folder),
        method=method,
        holdout=0.2,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    return LfmTrainer(
        model=LfmForMultimodalClassification.from_towers(config),
        args=args,
        train_dataset=AugmentedDataset(prepared, processor, seed=1),
        eval_dataset=prepared.select(range(4)),
        data_collator=LfmDataCollator(processor),
        processing_class=processor,
    )


def test_resumed_run_equals_uninterrupted_one(raw, tmp_path):
    """Bit for bit, with a method that reads the training set before each epoch; from an epoch's end and its middle, by
    as many workers or others."""
    method = {"name": "lfm", "alpha": "lookahead", "alpha_inner_samples": 8, "lookahead_steps": 1}
    whole = make_trainer(tmp_path / "whole", raw, method)
    whole.add_callback(SaveAt(4, 6))
    whole.train()
    for step, workers in ((4, 0), (6, 2)):  # 4 steps an epoch
        resumed = make_trainer(tmp_path / f"from-{step}", raw, method, dataloader_num_workers=workers)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_the_trainer_sets_the_epoch(raw, tmp_path, monkeypatch):
    drawn = []
    original = AugmentedDataset.vary

    def note(self, sample, index):
        drawn.append(self.epoch)
        return original(self, sample, index)

    monkeypatch.setattr(AugmentedDataset, "vary", note)
    trainer = make_trainer(tmp_path, raw, "concat")
    trainer.train()
    assert drawn == [0, 0, *(epoch for epoch in range(2) for _ in range(40))]  # two tell first whether they fit
    # accelerate does not reach the data set when there are several processes, nor through what wraps it
    trainer.train_dataset = SampleIdDataset(trainer.train_dataset)
    trainer.state.epoch = 1.5
    trainer.method_callback.on_epoch_begin(trainer.args, trainer.state, trainer.control)
    assert trainer.train_dataset.dataset.epoch == 1


def test_training_apart_leaves_the_epoch(raw, tmp_path):
    trainer = make_trainer(tmp_path, raw, "concat")
    trainer.train_dataset.set_epoch(2)
    apart = LfmForMultimodalClassification.from_towers(trainer.model.config)
    trainer.train_apart(apart, trainer.method.__class__(), num_train_epochs=1)
    assert trainer.train_dataset.epoch == 2
