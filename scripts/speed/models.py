"""Models and data in memory for the measurements: the same towers at sizes that fit the suite."""

import atexit
import gc

import torch

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.scripts.common import settings as arguments
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.callbacks import LfmProgressCallback
from modeling_lfm.trainer.methods import make_method

gc.freeze()  # each run of a trainer collects garbage, and would look through all that was imported
atexit.register(gc.unfreeze)  # or nanobind takes what is left for leaks
VOCABULARY = 30_522
MINILM = {  # the sizes of MiniLM-L6
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
BERT_BASE = {"model_type": "bert", "vocab_size": VOCABULARY}
TINY_BERT = {**MINILM, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_ARGS = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8}


def resnet(in_chans, name="resnet18", **spec):
    """Entry of a convolutional tower (`dict`)."""
    return {"tower": "timm", "name": name, "in_chans": in_chans, **spec}


def text(config, pooling="mean"):
    """Entry of a text tower (`dict`) from scratch."""
    return {"tower": "transformers", "config": config, "pooling": pooling}


def demo_towers():
    """The towers of scripts/configs/demo.yaml (`dict`)."""
    return arguments.read_config("demo")["modalities"]


def make_model(towers, method="concat", seed=0, num_labels=6, hidden_size=512, **settings):
    """A model as the method (name or `dict`) wants it, with weights drawn from `seed`."""
    torch.manual_seed(seed)
    settings = {**make_method(method).config_settings(towers), **settings}
    config = LfmConfig(**settings, hidden_size=hidden_size, num_labels=num_labels)
    return LfmForMultimodalClassification(config)


def make_samples(shapes, count, num_labels=6, seed=0):
    """Samples in memory, a noisy view of their label in every modality.

    Args:
        shapes (`dict`): from a modality to the shape of its values, or to the length of its text (`int`).

    Returns:
        `list[dict]` of tensors, as [`LfmTrainer`] takes them.
    """
    generator, samples = torch.Generator().manual_seed(seed), []
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


class InOrder(LfmTrainer):
    """A trainer that does not shuffle, so that a bare loop can see the same batches."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


def make_trainer(bench, folder, model, samples, method="concat", batch_size=32, epochs=1, holdout=None, **settings):
    """A trainer on the suite's device that writes nothing and prints nothing; `settings` are training arguments."""
    settings = {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": bench.suite == "cpu",
        **settings,
    }
    args = LfmTrainingArguments(
        str(folder),
        method=method,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        **settings,
    )
    trainer = InOrder(model, args, samples, holdout_dataset=holdout)
    trainer.pop_callback(LfmProgressCallback)
    return trainer


def make_step(trainer, batches):
    """A function that takes one training step of a trainer that has trained, as its loop does, and returns its loss.

    Args:
        batches: an iterator of batches (`dict` of tensors) without end.
    """
    args, model = trainer.args, trainer.model

    def step():
        loss = trainer.training_step(trainer.model_wrapped, next(batches))  # compiled, if it was asked for
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        model.zero_grad()
        return loss

    return step


def make_batches(samples, batch_size):
    """Batches of the samples in memory, again and again."""
    loader = torch.utils.data.DataLoader(samples, batch_size, drop_last=True)
    while True:
        yield from loader
