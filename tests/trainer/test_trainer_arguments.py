"""Every argument of `transformers.Trainer` and `TrainingArguments`: works, or is refused by name."""

import inspect
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.training_args import REFUSED, UNFIT_OPTIMIZERS

from .toy import SMALLEST, SMOOTH, only, toy_data, toy_model, toy_trainer

README = Path(__file__).resolve().parents[2] / "trainer" / "README.md"
WRONG = {
    "remove_unused_columns": True,
    "label_names": ["labels", "more"],
    "train_sampling_strategy": "group_by_length",
    "neftune_noise_alpha": 5.0,
    "use_liger_kernel": True,
    "include_num_input_tokens_seen": True,
    "include_for_metrics": ["inputs"],
    "parallelism_config": object(),
}
# Arguments of transformers that do more or less than there.
SPECIAL = {
    "model": "also an `LfmConfig`, of which the model is made: weights by `args.seed`, classes by the data set; or a "
    "`PeftModel` (fusion and projections in `modules_to_save`), of which the adapters are saved",
    "data_collator": "made of `processing_class` if not given",
    "train_dataset": "a stream, too; a method with a hold-out then needs `holdout_dataset`, LFM also `alpha_every`",
    "compute_loss_func": "the classification loss of every method, and of evaluation; returns the mean of a batch; "
    "not for `etmc`, `domfn` and `reconboost`",
    "compute_metrics": "its `predictions` are the pair `(logits, modality_logits)`",
    "preprocess_logits_for_metrics": "needs `compute_metrics`",
    "batch_eval_metrics": "needs `compute_metrics`",
    "eval_do_concat_batches": "needs `compute_metrics` where it is False",
    "optimizers": "not for `mslr`, which sets learning rates",
    "optim": "not those that step within the backward pass (LOMO, `*_layerwise`)",
    "logging_nan_inf_filter": "False by default: a loss that is no number is logged as it is, and no step waits for it",
    "label_smoothing_factor": "for single-label problems; evaluation is without",
    "train_sampling_strategy": "`balanced`, too",
    "gradient_checkpointing": "not for `agm`",
    "fp16": "not for methods that compute gradients themselves",
    "fsdp": "not for methods that change gradients; a learned alpha needs version 2",
    "deepspeed": "not for methods that change gradients; a learned alpha excludes ZeRO-3",
}


def arguments_of_transformers():
    """Names of the arguments of the trainer, then of its settings."""
    return [*list(inspect.signature(Trainer.__init__).parameters)[1:], *(f.name for f in fields(TrainingArguments))]


def describe(names):
    """The table of the README over the arguments `names`."""
    others = [name for name in names if name not in REFUSED and name not in SPECIAL]
    rows = [f"| `{name}` | {told} |" for name, told in SPECIAL.items() if name not in REFUSED]
    for name, (accepted, why) in REFUSED.items():
        values = " or ".join(f"`{value}`" for value in accepted)
        extra = f" ({SPECIAL[name]})" if name in SPECIAL else ""
        rows.append(f"| `{name}` | refused but for {values}: {why}{extra} |")
    rest = f"The others work as there: {', '.join(f'`{name}`' for name in others)}."
    return "\n".join(["| argument | here |", "| --- | --- |", *rows, "", rest])


def test_table_of_all_arguments():
    """What transformers adds is to be tried, and entered in one of the two lists or below the table."""
    text = README.read_text()
    table = "\n\n".join(text[text.index("| argument | here |") :].split("\n\n")[:2])
    told = re.findall(r"`(\w+)`", table.split("\n")[-1])
    listed = [*told, *REFUSED, *SPECIAL]
    assert set(arguments_of_transformers()) <= set(listed)
    assert table == describe(list(dict.fromkeys(listed)))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_with_the_reason(name, tmp_path):
    if name not in {field.name for field in fields(TrainingArguments)}:
        pytest.skip("this transformers has no such argument")
    accepted, why = REFUSED[name]
    with pytest.raises(ValueError, match=f"{name}=.*{re.escape(why)}"):
        LfmTrainingArguments(str(tmp_path), **{name: WRONG[name]})
    for value in accepted:
        LfmTrainingArguments(str(tmp_path), use_cpu=True, **{name: value})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3' should be of type float"),
        ({"weight_decay": float("nan")}, "weight_decay=nan should be of type float"),
        ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps=1.5 should be of type int"),
        ({"calibrate": "no"}, "calibrate='no' should be of type bool"),
        ({"bf16": "yes"}, "bf16='yes' should be of type bool"),
        ({"class_weights": [1.0, "a"]}, r"class_weights=\[1.0, 'a'\] must be a list of numbers"),
        ({"class_weights": np.ones(2)}, r"class_weights=array.* must be a list of numbers"),
        ({"method": 3}, "method=3 should be its name"),
    ],
)
def test_words_where_numbers_belong_are_told(given, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        LfmTrainingArguments(str(tmp_path), use_cpu=True, **given)


def test_numbers_of_other_types_are_numbers(tmp_path):
    numbers = {"learning_rate": np.float32(0.5), "seed": np.int64(3), "num_train_epochs": 2, "class_weights": (1, 2.0)}
    args = LfmTrainingArguments(str(tmp_path), use_cpu=True, metrics="auroc", **numbers)
    assert (args.learning_rate, args.seed, args.num_train_epochs, args.metrics) == (0.5, 3, 2, ["auroc"])
    assert '"seed": 3' in args.to_json_string()


def test_optimizers_that_step_too_early_are_refused(tmp_path):
    for name in UNFIT_OPTIMIZERS[::3]:
        with pytest.raises(ValueError, match=f"optim={name}"):
            LfmTrainingArguments(str(tmp_path), optim=name)


def trainer_with(tmp_path, settings=None, method="concat", **given):
    data = only(toy_data(24), SMOOTH)
    fusion = "sum" if method == "mslr" else "concat"
    args = LfmTrainingArguments(
        str(tmp_path), **{"method": method, "use_cpu": True, "num_train_epochs": 1, "holdout": 8, **(settings or {})}
    )
    given = {"model": toy_model(SMOOTH, fusion=fusion), "train_dataset": data, "eval_dataset": data[:16], **given}
    if callable(given.get("optimizers")):
        given["optimizers"] = given["optimizers"](given["model"])
    return LfmTrainer(args=args, **given)


@pytest.mark.parametrize(
    ("settings", "inputs"),
    [
        ({}, lambda p: (p.predictions[0].shape, len(p.predictions[1]), p.label_ids.shape) == ((16, 4), 2, (16,))),
        ({"include_for_metrics": ["loss"]}, lambda p: p.losses.shape == (16,)),
        ({"batch_eval_metrics": True}, lambda p: p.predictions[0].shape[1] == 4),
        ({"eval_do_concat_batches": False}, lambda p: len(p.predictions) == 2),
        ({"eval_accumulation_steps": 1}, lambda p: p.predictions[0].shape == (16, 4)),
    ],
)
def test_metrics_of_the_user_get_what_the_documentation_says(settings, inputs, tmp_path):
    found = []

    def compute_metrics(prediction, compute_result=True):
        found.append(inputs(prediction))
        return {"mine": 0.5}

    trainer = trainer_with(tmp_path, settings, compute_metrics=compute_metrics)
    assert trainer.evaluate()["eval_mine"] == 0.5
    assert found
    assert all(found)


def test_logits_are_preprocessed_for_the_users_metrics_alone(tmp_path):
    def predict(logits, labels):
        return logits[0].argmax(-1)

    trainer = trainer_with(
        tmp_path,
        preprocess_logits_for_metrics=predict,
        compute_metrics=lambda p: {"accuracy": float(np.mean(p.predictions == p.label_ids))},
    )
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    with pytest.raises(ValueError, match=r"preprocess_logits_for_metrics.*compute_metrics"):
        trainer_with(tmp_path, preprocess_logits_for_metrics=predict)
    for settings in ({"batch_eval_metrics": True}, {"eval_do_concat_batches": False}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}.*compute_metrics"):
            trainer_with(tmp_path, settings)


def test_optimizers_and_callbacks_of_the_user(tmp_path):
    class Counting(TrainerCallback):
        steps = 0

        def on_step_end(self, *args, **kwargs):
            self.steps += 1

    counting = Counting()
    trainer = trainer_with(
        tmp_path, optimizers=lambda model: (torch.optim.SGD(model.parameters(), 0.1), None), callbacks=[counting]
    )
    trainer.train()
    assert counting.steps == 3
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    trainer = trainer_with(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}))
    assert isinstance(trainer.create_optimizer(), torch.optim.SGD)
    given = {"optimizers": lambda model: (torch.optim.SGD(model.parameters(), 0.1), None)}
    trainer = trainer_with(tmp_path, method="mslr", **given)
    with pytest.raises(ValueError, match="mslr"):
        trainer.train()


DOUBTFUL = {
    "eval_use_gather_object": True,
    "eval_on_start": True,
    "activation_checkpointing": True,
    "bf16_full_eval": True,
    "use_cache": True,
    "auto_find_batch_size": True,
    "average_tokens_across_devices": True,
    "enable_jit_checkpoint": True,
    "save_only_model": True,
    "torch_empty_cache_steps": 1,
    "dataloader_drop_last": True,
    "debug": "underflow_overflow",
    "skip_memory_metrics": False,
    "accelerator_config": {"split_batches": True},
}


def test_doubtful_arguments_train_as_ever(tmp_path):
    """All at once, to the same weights: none of them changes what is computed."""
    known = {field.name for field in fields(TrainingArguments)}
    models = []
    for settings in ({}, {key: value for key, value in DOUBTFUL.items() if key in known}):
        settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 1, **settings}
        trainer = toy_trainer(tmp_path / str(len(models)), SMALLEST, method="concat", size=16, **settings)
        trainer.train()
        models.append(trainer.model.float())
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-3)
