"""What does not fit together, told before the first step, and fitting another model beside the one that trains."""

import copy
import random
import tempfile
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn
from transformers import default_data_collator, enable_full_determinism, set_seed
from transformers.utils import logging

from modeling_lfm.modeling_lfm import LfmForMultimodalClassification, LfmOutput
from modeling_lfm.towers_lfm import TOWERS

from .adapters import describe_bases
from .callbacks import LfmProgressCallback
from .collator import LfmDataCollator, SampleIdDataset
from .holdout import is_stream, known_inputs, read_labels
from .holes import keep_present
from .methods import Method
from .objectives import classification_loss
from .probe import leave_vectors
from .training_args import NEED_METRICS

logger = logging.get_logger(__name__)
POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


@torch.no_grad()
def check_parts(trainer):
    """Raise a `ValueError` that names what to change if the parts of an [`LfmTrainer`] do not fit together.

    Looks at the tokens, the classes, the shape of each modality's input, and batches of one sample under batch
    normalisation. Weights, statistics and the random state stay as they are. Data sets without a length are left alone,
    and labels that cannot be read without their samples.
    """
    model, dataset = trainer.model, trainer.train_dataset
    if is_stream(dataset) or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        return
    for name, tower in model.lfm.towers.items():
        if tower.input_names[0] == "input_ids" and name in getattr(trainer.processor, "kinds", {}):
            _check_text(name, tower.encoder, trainer.processor)
    if isinstance(trainer.plain_collator, LfmDataCollator) or trainer.plain_collator is default_data_collator:
        _check_classes(model.config, dataset, "labels")  # which a collator of the user may make of something else
        _check_classes(model.config, trainer.eval_dataset, "eval_dataset: labels")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # a tower alone has a part of its parameters
        return
    with unchanged_random_state(trainer.args.device):
        samples = [dataset[index] for index in range(min(2, len(dataset)))]
        check_inputs(trainer, samples)
        args, size = trainer.args, trainer.args.train_batch_size
        ends_with_one = len(dataset) % size == 1 and args.world_size == 1 and not args.dataloader_drop_last
        if size == 1 or ends_with_one:
            _check_single(model, _collate(trainer, samples[:1]), len(dataset), size)


def _collate(trainer, samples):
    device = next(trainer.model.parameters()).device
    batch = trainer.data_collator(samples)
    kept = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    return {key: value.to(device) for key, value in kept.items() if key not in ("labels", "sample_ids")}


def _check_text(name, encoder, processor):
    """Whether the tokens that `processor` can make have a row each in the embeddings of `encoder`."""
    length, tokens = processor.kinds[name].max_length, len(processor.tokenizer)
    rows = encoder.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise ValueError(
            f"modality {name!r}: the tokenizer has {tokens} tokens, the tower embeds {rows}: take the tokenizer of the "
            "tower, without added tokens, or a tower with a larger vocab_size."
        )
    for place, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and place.rpartition(".")[2] in POSITIONS:
            known = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            if length > known:
                raise ValueError(
                    f"modality {name!r}: max_length={length} tokens, but the tower has {known} positions: set "
                    f"processor.{name}.max_length to {known} at most."
                )


def _check_classes(config, dataset, name):
    """Whether the labels of a data set, called `name` in messages, are classes of the model."""
    dataset = getattr(dataset, "dataset", dataset)
    columns = dataset[0] if isinstance(dataset, list) and dataset else getattr(dataset, "column_names", None) or ()
    if "labels" not in columns or is_stream(dataset) or len(dataset) == 0:
        return
    labels, number, several = read_labels(dataset), config.num_labels, config.is_multi_label
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} such as {str(labels.flat[0])!r} are no numbers: give the place of each class, from 0 on, as "
            "prepare_dataset does with the names of classes."
        )
    if labels.ndim != (2 if several else 1) or (several and labels.shape[1] != number):
        wrong = f"of shape {labels.shape}"
    elif not several and labels.dtype.kind == "f":
        wrong = f"of type {labels.dtype}"
    elif not several and (labels.min() < 0 or labels.max() >= number):
        wrong = f"from {labels.min()} to {labels.max()}"
    else:
        wrong = None
    if wrong is not None:
        raise ValueError(f"{name} are {wrong}, but the model has {number} classes ({config.problem_type}).")
    if number == 1 and not several:
        raise ValueError(f"{name} are of one class, {config.id2label[0]!r}, so that there is nothing to learn.")


@torch.no_grad()
def check_inputs(trainer, samples):
    """Raise a `ValueError` that names the modality if a tower cannot read its part of the samples (`list[dict]`)."""
    model, batch = trainer.model, _collate(trainer, samples)
    training = model.training
    model.eval()
    for name, tower in model.lfm.towers.items():
        tensors = [batch[key] for key in (f"{name}_{part}" for part in tower.input_names) if key in batch]
        if getattr(tower, "frontend", None) is None:
            tensors = [tensor.to(tower.dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
        try:
            if tensors:  # what is missing from the data is told by the model
                vector = tower(*tensors)
                if vector.shape != (len(tensors[0]), tower.num_features):
                    raise ValueError(f"it makes {tuple(vector.shape)} of them, not a vector a sample")
        except Exception as error:
            raise ValueError(_tell_misfit(name, model.config.modalities[name], tensors[0], error)) from error
    model.train(training)


def _tell_misfit(name, spec, tensor, error):
    kind, type_ = spec.get("name") or spec["tower"], str(tensor.dtype).removeprefix("torch.")
    keys = [key for key in ("in_features", "in_chans", "model_args") if key in TOWERS[spec["tower"]].keys]
    told = "".join(f", {key}={spec[key]}" for key in keys if key in spec)
    return (
        f"modality {name!r}: inputs of shape {tuple(tensor.shape)} ({type_}) do not fit the tower {kind}{told}: "
        f"{str(error).rstrip('.')}. Change what the data or processor.{name} give, or modalities.{name} "
        f"({', '.join(keys or ['name'])})."
    )


def _check_single(model, batch, samples, size):
    """Train on one sample, as the last batch of an epoch would, and put the statistics back."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    model.train()
    try:
        model(**batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        found, mend = "batches of one sample are what", ""
        if size > 1:
            found = f"{samples} training samples in batches of {size} leave a last batch of one, which"
            mend = "dataloader_drop_last: true, or "
        raise ValueError(
            f"{found} batch normalisation cannot take: set {mend}another per_device_train_batch_size."
        ) from error
    finally:
        model.train(training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def check_metrics(trainer):
    """Raise a `ValueError` where the built-in metrics would get something else than they read."""
    found = [key for key, usual in NEED_METRICS.items() if getattr(trainer.args, key) != usual]
    found += ["preprocess_logits_for_metrics"] if trainer.preprocess_logits_for_metrics is not None else []
    if found:
        raise ValueError(f"{', '.join(found)} changes what metrics are made of, and needs your compute_metrics.")


def check_training(trainer):
    """Raise a `ValueError` where the method of a trainer cannot train under its parallelism or precision; warn of what
    a model of PEFT would not save."""
    _warn_of_statistics(trainer.model)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    for name in describe_bases(trainer.model) if sharded else ():
        raise ValueError(f"modalities.{name}.lora needs the whole model in each process: no FSDP or DeepSpeed.")
    rates = [n for n, s in trainer.model.config.modalities.items() if {"learning_rate", "layer_decay"} & set(s)]
    if rates and (sharded or trainer.optimizer is not None):
        raise ValueError(
            f"modalities.{rates[0]} asks for a learning rate of its own: leave the optimizer to the trainer "
            "(args.optim), without FSDP or DeepSpeed."
        )
    if trainer.args.channels_last and sharded:
        raise ValueError("channels_last needs whole parameters: no FSDP or DeepSpeed.")
    name, method = trainer.method.spec.name, type(trainer.method)
    if method.own_backward and trainer.args.fp16:
        raise ValueError(f"method {name} computes gradients itself, past the loss scaling of fp16: use bf16.")
    shapes_gradients = method.own_backward or any(
        getattr(method, hook) is not getattr(Method, hook) for hook in ("on_gradients", "parameter_groups")
    )
    if shapes_gradients and sharded:
        raise ValueError(f"method {name} needs the whole model in each process: no FSDP or DeepSpeed.")


def _warn_of_statistics(model):
    """Tell of batch normalisation that moves in the base of a `PeftModel`, of which only adapters are saved."""
    if not hasattr(model, "peft_config"):
        return
    training = model.training
    model.train()  # frozen towers stay in evaluation mode
    moving = [n for n, m in model.named_modules() if getattr(m, "track_running_stats", False) and m.training]
    model.train(training)
    moving = [name for name in moving if "modules_to_save" not in name]
    if moving:
        logger.warning(
            f"{moving[0]} and {len(moving) - 1} other modules keep statistics of batches, which training moves and "
            "adapters do not hold: set `frozen: true` for their tower, or name them in modules_to_save."
        )


# -- the model -------------------------------------------------------------------------------------------------


def make_model(config, args, dataset):
    """A new model of an [`LfmConfig`], its weights drawn from `args.seed`, its classes named after the data set's."""
    config = copy.deepcopy(config)
    name_classes(config, dataset, number=True)
    if args.linear_probe:
        leave_vectors(config)
    enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
    return LfmForMultimodalClassification.from_towers(config)


def name_classes(config, dataset, number=False):
    """Give a configuration (in place) without names of classes those of the `ClassLabel` of a data set, if that, or one
    within it, has `features`; with `number` also their number, as no model was made of it yet."""
    while not hasattr(dataset, "features") and dataset is not None:
        dataset = getattr(dataset, "unaugmented", getattr(dataset, "dataset", None))
    feature = dataset and (dataset.features or {}).get("labels")
    names = getattr(feature, "names", None)
    unnamed = all(name == f"LABEL_{place}" for place, name in config.id2label.items())
    if names and unnamed and (number or len(names) == config.num_labels):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}


# -- losses ----------------------------------------------------------------------------------------------------


def loss_options(args, config, dataset):
    """What settings and training labels make of L_CLS: keyword arguments of [`classification_loss`], none if plain.

    Args:
        args ([`LfmTrainingArguments`]), config ([`LfmConfig`])
        dataset: the training set, whose labels are counted where a setting needs that.

    Raises:
        ValueError: a setting that the problem does not have, or a data set without a length.
    """
    single, number = not config.is_multi_label, config.num_labels
    for key in ("label_smoothing_factor", "logit_adjustment"):
        if getattr(args, key) and not single:
            raise ValueError(f"{key} is defined for single-label problems only.")
    options = {"smoothing": args.label_smoothing_factor, "gamma": args.focal_gamma}
    if isinstance(args.class_weights, (list, tuple)):
        if len(args.class_weights) != number:
            raise ValueError(f"class_weights must hold {number} numbers, one a class, not {len(args.class_weights)}.")
        options["weights"] = torch.tensor(args.class_weights, dtype=torch.float32)
    if args.class_weights == "balanced" or args.logit_adjustment:
        labels = read_labels(dataset)
        counts = np.bincount(labels, minlength=number) if single else labels.sum(0)
        counts, total = torch.as_tensor(counts, dtype=torch.float32).clamp_min(1), len(labels)
        if args.class_weights == "balanced":
            options["weights"] = total / (number * counts) if single else (total - counts) / counts
        if args.logit_adjustment:
            options["shift"] = args.logit_adjustment * (counts / total).log()
    return {key: value for key, value in options.items() if isinstance(value, torch.Tensor) or value}


class LossChooser:
    """The part of [`LfmTrainer`] that says what stands for the classification loss of every method."""

    def _labelled(self):
        """The training set as it was given."""
        return self.train_dataset.dataset if isinstance(self.train_dataset, SampleIdDataset) else self.train_dataset

    def _set_loss(self):
        dataset = self._labelled()
        options = {} if dataset is None else loss_options(self.args, self.model.config, dataset)
        problem_type = self.model.config.problem_type
        self.special_loss = partial(classification_loss, problem_type=problem_type, **options) if options else None
        if self.loss_func is not None:
            self.special_loss = self._call_loss_func
        if self.special_loss is not None and self.method.spec.own_loss:
            given = ", ".join(options) or "compute_loss_func"
            raise ValueError(f"method {self.method.spec.name} has losses of its own, without a place for {given}.")

    def _call_loss_func(self, logits, labels):
        return self.loss_func(LfmOutput(logits=logits), labels, num_items_in_batch=None)

    def classification_loss(self, logits, labels):
        """L_CLS (scalar) of logits (B, K): what settings or `compute_loss_func` say, else (binary) cross-entropy."""
        loss = self.special_loss or partial(classification_loss, problem_type=self.model.config.problem_type)
        return loss(logits, labels)


# -- another model -----------------------------------------------------------------------------------------------


def train_apart(make_trainer, trainer, model, method, num_train_epochs=None):
    """Train another model on the same training set with the same settings, before or between epochs.

    The random state is as before afterwards.

    Args:
        make_trainer: the class [`LfmTrainer`]. trainer ([`LfmTrainer`]): whose data and settings they are.
        model ([`LfmForMultimodalClassification`]): trained in place; may lack some of the modalities.
        method ([`Method`])
        num_train_epochs (`float`, *optional*): those of `args` if not given.
    """
    args = copy.copy(trainer.args)
    args.save_strategy = args.eval_strategy = args.logging_strategy = "no"
    args.load_best_model_at_end, args.disable_tqdm, args.early_stopping_patience = False, True, None
    args.calibrate, args.stack, args.average_epochs = False, False, 0  # of the model that this run is for
    args.push_to_hub, args.report_to = False, []  # its logs are not those of this run
    if num_train_epochs is not None:
        args.num_train_epochs, args.max_steps = num_train_epochs, -1
    dataset, collator = trainer.train_dataset, trainer.data_collator
    if trainer.method.needs_sample_ids:
        dataset, collator = dataset.dataset, collator.collator
    dataset = keep_present(dataset, model.config.modality_names)
    dataset = copy.copy(dataset)  # where samples change from epoch to epoch, its epochs are its own
    collator = partial(collate_inputs, collator, known_inputs(model))
    shared = trainer.accelerator.gradient_state  # of all trainers of a process
    synced = shared.sync_gradients
    with tempfile.TemporaryDirectory() as args.output_dir, unchanged_random_state(args.device):
        apart = make_trainer(
            model, args, dataset, data_collator=collator, method=method, compute_loss_func=trainer.loss_func
        )
        apart.pop_callback(LfmProgressCallback)
        apart.train()
    shared.sync_gradients = synced
    return model


def collate_inputs(collator, names, samples):
    """A batch (`dict`) that `collator` makes of the samples, with nothing but the tensors `names`."""
    return {name: tensor for name, tensor in collator(samples).items() if name in names}


@contextmanager
def unchanged_random_state(device):
    """What is drawn inside leaves the random states of torch, numpy and Python as they were."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
