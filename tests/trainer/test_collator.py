"""The trainer makes batches by itself, of samples as they are prepared, and keeps the processor beside the model."""

import datasets
import numpy as np
import pytest
import torch

from modeling_lfm import LfmProcessor
from modeling_lfm.data import prepare_dataset
from modeling_lfm.trainer import LfmDataCollator, LfmTrainer, LfmTrainingArguments
from tests.data.media import image_bytes
from tests.modeling.towers import BERT, make_tokenizer, resnet

from .toy import toy_model

PICTURE = {"type": "image", "size": [32, 32]}
TOWERS = {"image": resnet(3), "text": {"tower": "transformers", "config": BERT}}


def make_data(processor):
    pictures = [{"bytes": image_bytes(np.full((32, 32, 3), 40 * n, np.uint8)), "path": f"{n}.png"} for n in range(6)]
    raw = {"image": pictures, "text": ["the cat"] * 6, "label": [0, 1] * 3}
    return prepare_dataset(datasets.Dataset.from_dict(raw), processor)


@pytest.mark.parametrize("modalities", [["image"], ["image", "text"]])
def test_a_trainer_needs_the_processor_alone(modalities, tmp_path):
    processor = LfmProcessor({"image": PICTURE})
    if "text" in modalities:
        processor = LfmProcessor({"image": PICTURE, "text": {"type": "text"}}, tokenizer=make_tokenizer(tmp_path))
    data = make_data(processor)
    model = toy_model({name: TOWERS[name] for name in modalities}, num_labels=2)
    args = LfmTrainingArguments(
        str(tmp_path), method="concat" if len(modalities) > 1 else "lfm", holdout=0, num_train_epochs=1, use_cpu=True
    )
    trainer = LfmTrainer(model, args, data, data, processing_class=processor)
    assert isinstance(trainer.data_collator, LfmDataCollator)
    trainer.train()
    assert trainer.processing_class is trainer.processor is processor
    tokens = {"pad_token_id", "bos_token_id", "eos_token_id"}
    assert not tokens & set(trainer.model.config.to_dict()), "the tokens of the tokenizer are not the model's"
    trainer.save_model()
    assert LfmProcessor.from_pretrained(tmp_path).modalities == processor.modalities
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_a_retry_with_smaller_batches_and_a_loader_in_between_change_nothing(tmp_path):
    processor = LfmProcessor({"image": PICTURE})
    data = make_data(processor)
    settings = {"auto_find_batch_size": True, "holdout": 0, "num_train_epochs": 1, "use_cpu": True}
    settings["method"] = {"name": "lfm", "alpha": "constant"}
    args = LfmTrainingArguments(str(tmp_path), per_device_train_batch_size=4, save_strategy="epoch", **settings)
    trainer = LfmTrainer(toy_model({"image": TOWERS["image"]}, num_labels=2), args, data, processing_class=processor)
    step, sizes = trainer.training_step, []

    def small_memory(model, inputs, *args, **kwargs):
        sizes.append(len(inputs["labels"]))
        if sizes[-1] == 4:
            raise RuntimeError("CUDA out of memory.")
        trainer.get_train_dataloader()
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = small_memory
    trainer.train()
    assert sizes[0] == 4
    assert max(sizes[1:]) < 4
    assert list(tmp_path.glob("checkpoint-*/processor_config.json"))
