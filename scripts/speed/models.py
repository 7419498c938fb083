"""Models and data in memory for the measurements: the same towers at sizes that fit the machine."""

import atexit
import gc

import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.callbacks import LfmProgressCallback
from modeling_lfm.trainer.methods import make_method

gc.freeze()  # each run of a trainer collects garbage, and would look through all that was imported
atexit.register(gc.unfreeze)  # or nanobind takes what is left for leaks
VOCABULARY = 30_522
MINILM = {  # the sizes of MiniLM-L6; without dropout, so that two runs can be compared
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_BERT = {**MINILM, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_ARGS = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8}


def resnet(in_chans, **model_args):
    """Entry of a ResNet18 (`dict`)."""
    return {"tower": "timm", "name": "resnet18", "in_chans": in_chans, "model_args": model_args}


def text(config):
    """Entry of a text tower from scratch (`dict`)."""
    return {"tower": "transformers", "config": config, "pooling": "mean"}


def pair(setup, cpu, cuda=None):
    """Towers and input shapes (two `dict`s) of sound and pictures: ResNet18 on squares of `cpu` pixels a side.

    Args:
        cuda (`dict`, *optional*): shapes on CUDA; the paper's of a clip if not given.
    """
    if setup.quick:
        tiny = resnet(1, **TINY_ARGS)
        return {"audio": tiny, "image": tiny}, {"audio": (1, 32, 32), "image": (1, 32, 32)}
    cuda = {"audio": (1, 257, 299), "image": (3, 224, 224)} if cuda is None else cuda
    shapes = setup.pick(None, {"audio": (1, cpu, cpu), "image": (3, cpu, cpu)}, cuda)
    return {"audio": resnet(1), "image": resnet(3)}, shapes


def demo_pair():
    """Towers and input shapes (two `dict`s) of scripts/configs/demo.yaml."""
    return read_config("demo")["modalities"], {"audio": (1, 65, 33), "image": (1, 16, 16)}


def make_model(towers, method="concat", num_labels=6, hidden_size=64):
    """A model as the method (name or `dict`) wants it, always with the same weights."""
    torch.manual_seed(0)
    settings = make_method(method).config_settings(towers)
    return LfmForMultimodalClassification(LfmConfig(**settings, hidden_size=hidden_size, num_labels=num_labels))


def make_samples(shapes, count, num_labels=6):
    """Samples in memory, a noisy view of their label in every modality.

    Args:
        shapes (`dict`): from a modality to the shape of its values, or to the length of its text (`int`).

    Returns:
        `list[dict]` of tensors, as [`LfmTrainer`] takes them.
    """
    generator, samples = torch.Generator().manual_seed(0), []
    for number in range(count):
        label, sample = number % num_labels, {}
        for name, shape in shapes.items():
            if isinstance(shape, int):
                ids = torch.randint(1000, VOCABULARY, (shape,), generator=generator)
                ids[0] = 1 + label
                sample |= {f"{name}_input_ids": ids, f"{name}_attention_mask": torch.ones_like(ids)}
            else:
                sample[f"{name}_values"] = torch.randn(shape, generator=generator) + 0.1 * label
        samples.append({**sample, "labels": torch.tensor(label)})
    return samples


def make_trainer(setup, folder, model, samples, method="concat", batch_size=32, holdout=None, **settings):
    """A trainer that takes samples in their order, writes nothing and prints nothing.

    Args:
        settings: training arguments.
    """
    args = LfmTrainingArguments(
        str(folder),
        method=method,
        per_device_train_batch_size=batch_size,
        use_cpu=setup.device == "cpu",
        **{
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "disable_tqdm": True,
            **settings,
        },
    )
    trainer = LfmTrainer(model, args, samples, holdout_dataset=holdout)
    trainer.pop_callback(LfmProgressCallback)
    return trainer


def make_step(trainer):
    """A function that takes one training step, as the loop of a trainer that has trained does, and returns its loss."""
    args, batches = trainer.args, make_batches(trainer.train_dataset, trainer.args.train_batch_size)

    def step():
        loss = trainer.training_step(trainer.model_wrapped, next(batches))  # compiled, if it was asked for
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return loss

    return step


def make_batches(samples, batch_size):
    """Batches of samples in memory, again and again."""
    loader = torch.utils.data.DataLoader(samples, batch_size, drop_last=True)
    while True:
        yield from loader
