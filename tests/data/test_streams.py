"""Prepared shards as a stream: each sample once a pass, an order by seed and pass, training that resumes in one."""

import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from modeling_lfm import LfmConfig, LfmProcessor
from modeling_lfm.data import load_benchmark, load_prepared
from modeling_lfm.data.shards import Preparation
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

SIGHT = {"type": "image", "size": [8, 8], "num_channels": 1}
PROCESSOR = LfmProcessor({"left": {**SIGHT, "augment": True}, "right": SIGHT})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """60 samples in four shards."""
    folder, raw = tmp_path_factory.mktemp("streams") / "prepared", load_benchmark("demo", split="validation")
    columns = dict.fromkeys(PROCESSOR.modalities, "image")
    shards = Preparation(folder, "demo", {}, {"train": raw.select(range(60))}, None, PROCESSOR, columns, shard_size=15)
    shards.begin()
    assert len(list(shards.write())) == 4
    return folder


def test_what_a_lost_machine_began_to_write_is_removed(tmp_path):
    raw, columns = (
        load_benchmark("demo", split="validation").select(range(4)),
        dict.fromkeys(PROCESSOR.modalities, "image"),
    )
    task = Preparation(tmp_path / "out", "demo", {}, {"train": raw}, None, PROCESSOR, columns, shard_size=2)

    def run(function, context, pieces):
        begun = tmp_path / "out" / "data" / ".train-00000-of-00002.parquet.0c3f90ae.part"
        begun.parent.mkdir(exist_ok=True)
        begun.write_bytes(b"PAR1")
        yield from ((piece, function(context, piece)) for piece in pieces)

    task.begin()
    list(task.write(run))
    assert not list(tmp_path.glob("out/**/.*.part"))
    assert len(list(tmp_path.glob("out/data/*.parquet"))) == 2


def read(stream):
    return [sample["right_values"].numpy().tobytes() for sample in stream]


def test_each_sample_once_in_an_order_by_seed_and_pass(prepared):
    stream = load_prepared(prepared, PROCESSOR, split="train", streaming=True, seed=3)
    stored = read(load_prepared(prepared, PROCESSOR, split="train"))
    assert len(stream) == 60
    first = read(stream)
    assert first != stored
    assert sorted(first) == sorted(stored)
    stream.set_epoch(1)
    assert read(stream) != first
    stream.set_epoch(0)
    assert read(stream) == first
    assert read(load_prepared(prepared, PROCESSOR, split="train", streaming=True, seed=4)) != first
    workers = DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(read(workers)) == sorted(stored)
    address = load_prepared(f"file://{prepared}", PROCESSOR, split="train", streaming=True, seed=3)
    assert read(address) == first
    assert read(load_prepared(f"file://{prepared}", PROCESSOR, split="train")) == stored


def test_what_cannot_be_streamed_is_told(prepared, tmp_path):
    with pytest.raises(ValueError, match="no samples for the split 'test'; it has train"):
        load_prepared(prepared, PROCESSOR, split="test", streaming=True)
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    next(copy.glob("data/*")).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 shards are missing"):
        load_prepared(copy, PROCESSOR, split="train", streaming=True)
    with pytest.raises(FileNotFoundError, match="is not a prepared folder"):
        load_prepared(f"file://{tmp_path}/nowhere", PROCESSOR, split="train", streaming=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_resumes_within_a_pass_to_the_bit(prepared, tmp_path, workers):
    def train(folder, resume=None):
        tower = {"tower": "timm", "name": "resnet10t", "in_chans": 1, "model_args": {"channels": [4, 4, 4, 4]}}
        args = LfmTrainingArguments(
            str(tmp_path / folder), max_steps=8, per_device_train_batch_size=10, method={"alpha": "heuristic"},
            save_strategy="steps", save_steps=4, use_cpu=True, disable_tqdm=True, dataloader_num_workers=workers,
        )  # fmt: skip
        stream = load_prepared(prepared, PROCESSOR, split="train", streaming=True)
        config = LfmConfig({"left": tower, "right": tower}, hidden_size=4)
        trainer = LfmTrainer(config, args, stream, processing_class=PROCESSOR)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train("whole")
    assert whole.state.global_step == 8  # the second pass begins after the sixth
    resumed = train("resumed", resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.model.config.id2label[1] == "one"
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
