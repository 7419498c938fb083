"""The stored vectors of frozen towers: what the towers give, computed once, and training that is the same with them."""

import threading

import datasets
import numpy as np
import pytest
import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification, LfmProcessor
from modeling_lfm.data import LfmDataCollator, cache_features, prepare_dataset
from modeling_lfm.modeling_lfm import LfmModel
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.methods import make_method
from tests.modeling.towers import make_tokenizer, resnet
from tests.trainer.toy import SMOOTH, method_settings

WORDS = ["red", "green", "blue", "a red car"]


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    kinds = {
        "image": {"type": "image", "size": [32, 32]},
        "text": {"type": "text", "max_length": 6},
        "numbers": {"type": "vector"},
    }
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return LfmProcessor(kinds, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def raw():
    rng = np.random.default_rng(0)
    columns = {
        "image": [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(24)],
        "text": [WORDS[i % 4] for i in range(24)],
        "numbers": rng.normal(size=(24, 3)).tolist(),
        "label": [i % 3 for i in range(24)],
    }
    return datasets.Dataset.from_dict(columns)


@pytest.fixture(scope="module")
def data(raw, processor):
    return prepare_dataset(datasets.DatasetDict(train=raw), processor)["train"]


def make_model(processor, frozen=("image", "text"), seed=0, method="lfm"):
    torch.manual_seed(seed)
    towers = {"image": resnet(3), "text": SMOOTH["text"], "numbers": {"tower": "mlp"}}
    towers = {name: {**spec, "frozen": name in frozen} for name, spec in towers.items()}
    processor.complete_towers(towers)
    settings = make_method(method_settings(method)).config_settings(towers)
    return LfmForMultimodalClassification(LfmConfig(**settings, hidden_size=8, num_labels=3)).eval()


def batch_of(dataset, processor):
    return LfmDataCollator(processor)([dataset[i] for i in range(8)])


def test_vectors_stand_for_the_inputs_and_answers_are_the_same(processor, raw, data):
    holes = raw.map(lambda row, i: {"text": None if i == 5 else row["text"]}, with_indices=True)
    data, model = prepare_dataset(holes, processor, missing="absent"), make_model(processor)
    cached = cache_features(model, data, processor, batch_size=5)
    assert set(cached[0]) == {"image_vector", "text_vector", "numbers_values", "labels"} | {
        f"{name}_present" for name in ("image", "text", "numbers")
    }
    wanted, found = (model(**batch_of(dataset, processor)) for dataset in (data, cached))
    assert torch.allclose(wanted.logits, found.logits, atol=1e-5)
    for one, other in zip(wanted.modality_logits, found.modality_logits, strict=True):
        assert torch.allclose(one, other, atol=1e-5, equal_nan=True)
    assert found.modality_logits[1][5].isnan().all()  # the text that is not there


@pytest.fixture
def passed(monkeypatch):
    """(modality, samples) of each pass of a tower."""
    passed, run_tower = [], LfmModel.run_tower

    def count(self, name, inputs):
        passed.append((name, len(next(iter(inputs.values())))))
        return run_tower(self, name, inputs)

    monkeypatch.setattr(LfmModel, "run_tower", count)
    return passed


def test_they_are_computed_once_for_each_state_of_tower_and_data(processor, data, passed):
    model = make_model(processor, seed=1)
    first = cache_features(model, data, processor)
    assert passed == [("image", 24), ("text", 24)]
    again = cache_features(make_model(processor, seed=1), data, processor)
    assert len(passed) == 2
    assert torch.equal(first[3]["image_vector"], again[3]["image_vector"])
    with torch.no_grad():
        next(model.lfm.towers["image"].parameters()).add_(1)
    other = cache_features(model, data, processor)
    assert passed[2:] == [("image", 24)]  # the text's tower is what it was
    assert not torch.equal(first[3]["image_vector"], other[3]["image_vector"])
    cache_features(model, data.select(range(6)), processor)
    assert passed[3:] == [("image", 6), ("text", 6)]
    kinds = {
        **processor.modalities,
        "image": {**processor.modalities["image"], "mean": 0.25},
    }
    cache_features(model, data, LfmProcessor(kinds, tokenizer=processor.tokenizer))
    assert passed[5:] == [("image", 24)]


def test_a_model_of_fewer_modalities_computes_nothing(processor, raw, data, passed):
    model = make_model(processor, seed=2)
    joint = cache_features(model, data, processor)
    assert passed == [("image", 24), ("text", 24)]
    alone = LfmProcessor({"image": processor.modalities["image"]})
    prepared = prepare_dataset(datasets.DatasetDict(train=raw), alone)["train"]
    towers = {"image": model.config.modalities["image"]}
    single = LfmForMultimodalClassification(LfmConfig(towers, num_labels=3))
    single.lfm.towers["image"].load_state_dict(model.lfm.towers["image"].state_dict())
    found = cache_features(single, prepared, alone)
    assert len(passed) == 2
    assert all(torch.equal(one["image_vector"], other["image_vector"]) for one, other in zip(joint, found, strict=True))


def test_of_those_who_want_the_same_at_once_one_computes(processor, data, passed):
    start, found = threading.Barrier(2), []

    def compute(model):
        start.wait()
        found.append(cache_features(model, data, processor, batch_size=4))

    threads = [threading.Thread(target=compute, args=(make_model(processor, seed=4),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(passed) == [("image", 4)] * 6 + [("text", 4)] * 6
    assert torch.equal(found[0][5]["text_vector"], found[1][5]["text_vector"])


def train(folder, processor, dataset, method, seed=0):
    model = make_model(processor, seed=seed, method=method)
    settings = {"max_steps": 4, "per_device_train_batch_size": 6, "report_to": "none", "use_cpu": True, "seed": 3}
    args = LfmTrainingArguments(str(folder), method=method_settings(method), **settings)
    trainer = LfmTrainer(model, args, dataset, eval_dataset=dataset, processing_class=processor)
    trainer.train()
    return {name: p for name, p in model.named_parameters() if p.requires_grad}, trainer.evaluate()


@pytest.mark.parametrize("method", ["lfm", "umt", "reconboost"])
def test_training_is_the_same_to_rounding(processor, data, tmp_path, method):
    cached = cache_features(make_model(processor), data, processor)
    (wanted, measured), (found, told) = (
        train(tmp_path / name, processor, part, method) for name, part in (("a", data), ("b", cached))
    )
    assert all(torch.allclose(wanted[name], found[name], atol=1e-4) for name in wanted)
    assert told["eval_loss"] == pytest.approx(measured["eval_loss"], abs=1e-4)


def test_what_cannot_be_stored_is_told(processor, data):
    with pytest.raises(ValueError, match="no tower is frozen"):
        cache_features(make_model(processor, frozen=()), data, processor)
    model = make_model(processor, frozen=("image",))
    batch = batch_of(cache_features(make_model(processor), data, processor), processor)
    with pytest.raises(ValueError, match=r"text_vector.*text_input_ids|unknown input 'text_vector'"):
        model(**batch)
    kinds = {**processor.modalities, "image": {**processor.modalities["image"], "augment": True}}
    varying = LfmProcessor(kinds, tokenizer=processor.tokenizer)
    with pytest.raises(ValueError, match=r"image.*augment"):
        cache_features(model, data, varying)
