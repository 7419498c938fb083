"""A toy problem for tests of the trainer, and small models that learn it."""

import functools

import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.methods import make_method
from tests.modeling.fusions import vit
from tests.modeling.towers import BERT, TOWERS, resnet

ONE_LAYER = {**TOWERS["text"], "config": {**BERT, "num_hidden_layers": 1}}
# Layer normalisation only, and no dropout: what a batch's samples compute does not depend on how they are split.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SMOOTH = {
    "vit": {"tower": "timm", "name": "test_vit", "model_args": {"img_size": 32, "depth": 2}},
    "text": {**ONE_LAYER, "config": {**ONE_LAYER["config"], **NO_DROPOUT}},
}


def shallow_resnet(in_chans, **model_args):
    """A convolutional tower of all stages, two of them without a layer."""
    return resnet(in_chans, **{"channels": [8] * 4, "stem_width": 4, "layers": [1, 0, 0, 1], **model_args})


NORMALISED = {"audio": shallow_resnet(1), "text": ONE_LAYER}
SMALLEST = {"vit": vit(32, 3, depth=1), "text": SMOOTH["text"]}  # as little as still trains


def method_towers(name, normalised=True, number=2):
    """Towers that the method `name` can train: two or three, with batch normalisation and dropout or without either."""
    norm = {} if normalised else {"norm_layer": "groupnorm1"}
    if name in ("mmtm", "greedy"):  # they need feature maps
        towers = {
            "audio": shallow_resnet(1, **norm),
            "vit": shallow_resnet(3, **norm),
            "flow": shallow_resnet(2, **norm),
        }
    else:
        text, third = (ONE_LAYER, SMALLEST["vit"]) if normalised else (SMOOTH["text"], SMOOTH["vit"])
        towers = {"audio": shallow_resnet(1, **norm), "text": text, "vit": third}
    return dict(list(towers.items())[: 3 if name == "unimodal_3" else number])


def smallest_towers(name):
    """Two towers (three where it needs them) without batch normalisation and dropout that the method `name` trains."""
    if name in ("mmtm", "greedy"):  # they need feature maps
        return method_towers(name, normalised=False)
    return SMALLEST | ({"flow": vit(32, 2, depth=1)} if name == "unimodal_3" else {})


# Where the published settings would do nothing in a run of a few steps.
SHORT_RUNS = {
    "lfm": {"alpha_inner_samples": 16},
    "ogm": {"alpha": 0.8},
    "mses": {"patience": 1},
    "mslr": {"memory": 1},
    "g_blend": {"mode": "online", "super_epoch": 2, "estimation_epochs": 1},
    "greedy": {"first_epoch": 1},
    "reconboost": {"modality_epochs": 0.5, "joint_epochs": 0.5},
    "umt": {"teacher_epochs": 1},
    "domfn": {"tau": 0.02, "pretraining_epochs": 0.5},
    "etmc": {"annealing_epochs": 4.0},
    "qmf": {"rank_weight": 20.0},
}


def method_settings(name):
    """The method `name` with settings that let every part of it act in a short run."""
    return {"name": name, **SHORT_RUNS.get(name, {})}


@functools.cache
def toy_data(size, seed=0, classes=4):
    """Samples for the modalities audio, vit, flow and text, each a noisy view of the label; read, but for copies."""
    generator, flow = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    samples = []
    for index in range(size):
        label = index % classes
        ids = torch.randint(3, 90, (6,), generator=generator)
        ids[:2] = 3 + label
        samples.append(
            {
                "audio_values": torch.randn(1, 33, 32, generator=generator) + 0.3 * label,
                "vit_values": torch.randn(3, 32, 32, generator=generator) + 0.2 * label,
                "flow_values": torch.randn(2, 32, 32, generator=flow) + 0.2 * label,
                "text_input_ids": ids,
                "text_attention_mask": torch.ones_like(ids),
                "labels": torch.tensor(label),
            }
        )
    return samples


def with_holes(samples, names):
    """The samples, of which a third each lacks the first, the second and the third of the modalities `names`: what
    stands there is noise."""
    punched = []
    for place, sample in enumerate(samples):
        marks = {f"{name}_present": torch.tensor(place % 3 != number) for number, name in enumerate(names)}
        noise = {
            key: torch.full_like(value, 50.0)
            for key, value in sample.items()
            if key.endswith("_values") and not marks.get(f"{key[:-7]}_present", True)
        }
        punched.append({**sample, **noise, **marks})
    return punched


def only(samples, modalities):
    """The inputs of `modalities` and the labels of each sample."""
    return [{k: v for k, v in sample.items() if k == "labels" or k.split("_")[0] in modalities} for sample in samples]


def toy_model(modalities, seed=0, **kwargs):
    """A small model with weights drawn from `seed`."""
    torch.manual_seed(seed)
    config = LfmConfig(modalities=modalities, **{"hidden_size": 16, "num_labels": 4, **kwargs})
    return LfmForMultimodalClassification(config)


class InOrder(LfmTrainer):
    """A trainer that does not shuffle; the argument for it is younger than transformers 5.0."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class SaveAt(TrainerCallback):
    """Save after these steps, and after the last of them stop if told."""

    def __init__(self, *steps, stop=False):
        self.steps, self.stop = steps, stop

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps
        control.should_training_stop |= self.stop and state.global_step == self.steps[-1]


def toy_trainer(
    output_dir, modalities, size=64, method="lfm", in_order=False, modality_dropout=0.0, holes=False, **kwargs
):
    """A trainer on the toy problem with a model as the method wants it; `kwargs` are training arguments."""
    method = {"name": method} if isinstance(method, str) else {"name": "lfm", **method}
    if method["name"] == "lfm":
        method = {"alpha_inner_samples": 16, "lookahead_steps": 2, **method}
    settings = {
        "method": method,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 2e-3,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        "calibrate": False,  # which `test_calibration` is about, and no weight depends on
        **kwargs,
    }
    model_settings = make_method(method).config_settings(modalities)
    data = only(toy_data(size), model_settings["modalities"])
    data = with_holes(data, list(model_settings["modalities"])) if holes else data
    return (InOrder if in_order else LfmTrainer)(
        model=toy_model(**model_settings, modality_dropout=modality_dropout),
        args=LfmTrainingArguments(output_dir=str(output_dir), **settings),
        train_dataset=data,
        eval_dataset=data[:16],
    )


def assert_same_but_for_rounding(one, other):
    """Two trainers took as many steps, with the same losses, to the same weights."""
    assert one.state.global_step == other.state.global_step
    for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
