"""alpha that moves within an epoch, and training on streams."""

import math

import datasets
import pytest
from torch.utils.data import IterableDataset

from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments

from .test_trainer import assert_same_to_the_bit
from .toy import SMOOTH, SaveAt, method_settings, only, toy_data, toy_model, toy_trainer


def alphas(trainer):
    return [entry["alpha"] for entry in trainer.state.log_history if "loss_cls" in entry]


@pytest.mark.parametrize("alpha", ["learned", "lookahead"])
def test_alpha_moves_within_an_epoch_and_resumes(alpha, tmp_path):
    """Two epochs of four steps, an update every two: bit for bit, also from between two updates."""
    settings = {"method": {"alpha": alpha, "alpha_every": 2, "alpha_start": 0.5}, "holdout": 16, "size": 48}
    settings |= {"num_train_epochs": 2}
    whole = toy_trainer(tmp_path / "whole", SMOOTH, **settings)
    whole.add_callback(SaveAt(3))
    whole.train()
    found = alphas(whole)
    assert len(found) == 8
    assert found[::2] == found[1::2]
    assert len(set(found)) == 4
    assert whole.method.schedule.updates == 3
    resumed = toy_trainer(tmp_path / "resumed", SMOOTH, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same_to_the_bit(resumed, whole)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ({"alpha": "heuristic"}, lambda t: 1 - math.exp(-1 / t)),
        ({"alpha": "linear", "alpha_start": 0.8}, lambda t: 0.8 * (1 - (t - 1) / 3)),
        ({"alpha": "stepwise", "alpha_value": 0.7}, lambda t: 0.7 if t <= 2 else 0.3),
    ],
)
def test_every_schedule_counts_periods_of_steps(method, rule, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method={**method, "alpha_every": 2}, size=56, num_train_epochs=1)
    trainer.train()
    assert alphas(trainer) == pytest.approx([rule(step // 2 + 1) for step in range(7)])


def test_a_learned_alpha_that_cannot_move_is_told(tmp_path, caplog):
    trainer = toy_trainer(tmp_path, SMOOTH, num_train_epochs=1, holdout=16)
    logger = __import__("logging").getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        trainer.train()
    finally:
        logger.removeHandler(caplog.handler)
    assert "alpha_every" in caplog.text


class Stream(IterableDataset):
    def __init__(self, samples, endless=False):
        self.samples, self.endless = samples, endless

    def __iter__(self):
        yield from self.samples
        while self.endless:
            yield from self.samples


def stream_trainer(tmp_path, dataset, method, **given):
    args = LfmTrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=8, method=method, use_cpu=True, disable_tqdm=True,
        logging_strategy="steps", logging_steps=1, save_strategy="no",
    )  # fmt: skip
    fusion = "qmf" if method["name"] == "qmf" else "concat"
    return LfmTrainer(model=toy_model(SMOOTH, fusion=fusion), args=args, train_dataset=dataset, **given)


SMALL = {"alpha_inner_samples": 16, "lookahead_steps": 2}


@pytest.mark.parametrize(("alpha", "kind"), [("learned", "passes"), ("lookahead", "datasets"), ("linear", "endless")])
def test_streams_train(alpha, kind, tmp_path):
    """Two passes over 24 samples, or one without an end: alpha moves every two steps, whatever the pass."""
    data = only(toy_data(40), SMOOTH)
    dataset = Stream(data[16:], endless=kind == "endless")
    if kind == "datasets":
        rows = [{key: value.tolist() for key, value in sample.items()} for sample in data[16:]]
        dataset = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2).with_format("torch")
    method = {"name": "lfm", "alpha": alpha, "alpha_every": 2, "alpha_start": 0.7, **SMALL}
    trainer = stream_trainer(tmp_path, dataset, method, holdout_dataset=data[:16])
    trainer.train()
    found = alphas(trainer)
    assert len(found) == 6
    assert len(set(found)) == 3
    assert found[::2] == found[1::2]


def test_what_a_stream_cannot_do_is_told(tmp_path):
    data = only(toy_data(32), SMOOTH)
    held = {"holdout_dataset": data[:8]}
    for method, given, words in (
        ({"name": "lfm"}, held, "method.alpha_every"),
        ({"name": "lfm", "alpha": "heuristic"}, {}, "method.alpha_every"),
        ({"name": "lfm", "alpha_every": 4}, {}, "holdout_dataset"),
        (method_settings("qmf"), {}, "qmf knows samples by their place"),
    ):
        with pytest.raises(ValueError, match=words):
            stream_trainer(tmp_path, Stream(data), method, **given)
    once = Stream(data)
    once.__class__ = type("Once", (Stream,), {"__iter__": lambda self: self, "__next__": lambda self: data[0]})
    trainer = stream_trainer(tmp_path, once, {"name": "lfm", "alpha_every": 4, "alpha_reuse": False, **SMALL}, **held)
    with pytest.raises(ValueError, match="readable again"):
        trainer.train()
    assert stream_trainer(tmp_path, once, {"name": "lfm", "alpha_every": 4}, **held).train().global_step == 6
    stream_trainer(tmp_path, Stream(data), {"name": "lfm", "alpha": "constant", "alpha_value": 0.5}).train()
    for wrong in ("step", 0):
        with pytest.raises(ValueError, match="alpha_every"):
            LfmTrainingArguments(str(tmp_path), method={"name": "lfm", "alpha_every": wrong})
