"""Models, data in memory and trainers for the measurements: the same towers at sizes that fit the machine."""

import atexit
import gc

import torch
from torch.utils.data import DataLoader

from modeling_lfm import LfmConfig, LfmForMultimodalClassification
from modeling_lfm.scripts.common.settings import read_config
from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
from modeling_lfm.trainer.callbacks import LfmProgressCallback
from modeling_lfm.trainer.methods import make_method

gc.freeze()  # each run of a trainer collects garbage, and would look through all that was imported
atexit.register(gc.unfreeze)  # or nanobind takes what is left for leaks
VOCABULARY = 30_522
TINY = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 8}


def resnet(in_chans, **model_args):
    """Entry of a ResNet18 (`dict`) that reads so many channels; `model_args` go to timm."""
    return {"tower": "timm", "name": "resnet18", "in_chans": in_chans, "model_args": model_args}


def text(width, layers):
    """Entry of a BERT (`dict`) of so many layers of `width`; without dropout, so that two runs can be compared."""
    config = {"model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": layers}
    config |= {"num_attention_heads": width // 8, "intermediate_size": 4 * width}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return {"tower": "transformers", "config": config, "pooling": "mean"}


def pair(setup, side):
    """Towers and input shapes (two `dict`s): ResNet18 on squares of `side` pixels, and on the paper's size on CUDA."""
    if setup.quick:
        return dict.fromkeys(("audio", "image"), resnet(1, **TINY)), dict.fromkeys(("audio", "image"), (1, 32, 32))
    small = {"audio": (1, side, side), "image": (3, side, side)}
    shapes = setup.pick(None, small, {"audio": (1, 257, 299), "image": (3, 224, 224)})
    return {"audio": resnet(1), "image": resnet(3)}, shapes


def demo_pair():
    """Towers and input shapes (two `dict`s) of scripts/configs/demo.yaml."""
    return read_config("demo")["modalities"], {"audio": (1, 65, 33), "image": (1, 16, 16)}


def make_model(towers, method="concat", hidden_size=64):
    """A model as the method (name or `dict`) wants it, always with the same weights."""
    torch.manual_seed(0)
    settings = make_method(method).config_settings(towers)
    return LfmForMultimodalClassification(LfmConfig(**settings, hidden_size=hidden_size, num_labels=6))


def make_samples(shapes, count):
    """Samples in memory (`list[dict]` of tensors), a noisy view of their label in every modality, of whose values
    `shapes` has the shape, or of whose text the length (`int`)."""
    generator, samples = torch.Generator().manual_seed(0), []
    for number in range(count):
        label, sample = number % 6, {}
        for name, shape in shapes.items():
            if isinstance(shape, int):
                ids = torch.randint(1000, VOCABULARY, (shape,), generator=generator)
                ids[0] = 1 + label
                sample |= {f"{name}_input_ids": ids, f"{name}_attention_mask": torch.ones_like(ids)}
            else:
                sample[f"{name}_values"] = torch.randn(shape, generator=generator) + 0.1 * label
        samples.append({**sample, "labels": torch.tensor(label)})
    return samples


def make_trainer(setup, folder, model, samples, batch_size, method="concat", holdout=None, processor=None, **settings):
    """A trainer that takes samples in their order, writes nothing and prints nothing; `settings` are arguments."""
    settings = {"learning_rate": 1e-3, "lr_scheduler_type": "constant", **settings}
    settings |= {"train_sampling_strategy": "sequential", "save_strategy": "no", "disable_tqdm": True}
    settings |= {"per_device_train_batch_size": batch_size, "use_cpu": setup.device == "cpu"}
    args = LfmTrainingArguments(str(folder), method=method, **settings)
    trainer = LfmTrainer(model, args, samples, holdout_dataset=holdout, processing_class=processor)
    trainer.pop_callback(LfmProgressCallback)
    return trainer


def make_step(trainer):
    """Train once; then a function that takes a step as the trainer's loop does, on one batch, and returns its loss."""
    trainer.train()
    args, batch = trainer.args, next(iter(trainer.get_train_dataloader()))

    def step():
        trainer.method.on_step_begin(trainer.state.global_step)
        loss = trainer.training_step(trainer.model_wrapped, dict(batch))  # compiled, if it was asked for
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return loss

    return step


def batches(setup, samples, batch_size, steps):
    """So many batches of the samples on the device, epoch by epoch."""
    loader = DataLoader(samples, batch_size, pin_memory=setup.device == "cuda")
    for _ in range(steps // len(loader)):
        for batch in loader:
            yield {name: tensor.to(setup.device, non_blocking=True) for name, tensor in batch.items()}
