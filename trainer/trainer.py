"""`LfmTrainer`: transformers' training loop with the objective of LFM, its moving alpha, and per-modality metrics."""

from collections import defaultdict
from functools import partial

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from sklearn.model_selection import train_test_split
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer

from .alpha import make_alpha
from .bilevel import BilevelProblem
from .callbacks import AlphaCallback, LfmPrinterCallback, LfmProgressCallback
from .metrics import compute_multimodal_metrics
from .objectives import classification_loss, matching_loss, total_loss
from .training_args import LfmTrainingArguments


class LfmTrainer(Trainer):
    """Trains [`LfmForMultimodalClassification`] on L_CLS and L_MM, mixed by alpha.

    Source: Yang et al., "Facilitating Multimodal Classification via Dynamically Learning Modality Gap", NeurIPS 2024,
    equation 1 (`total="convex"`). Everything not named here is as in `transformers.Trainer`.

    Args:
        args ([`LfmTrainingArguments`]): settings.
        train_dataset (`datasets.Dataset` or a map-style `torch.utils.data.Dataset`): samples are dicts of the model's
            inputs and `labels`. With a learned alpha, `args.alpha_holdout` of it is kept for the outer problem unless
            `outer_dataset` is given.
        outer_dataset (*optional*): samples on which the outer loss of a learned alpha is computed; never trained on.
            With `args.alpha_holdout` 0 it is the `eval_dataset`.
        compute_metrics (*optional*): in place of [`compute_multimodal_metrics`].
        processing_class ([`LfmProcessor`], *optional*): saved beside the model; kept as `processor`, because
            transformers takes the special tokens of a `processing_class` for the model's, tokenizer or not.

    Raises:
        ValueError: a learned alpha with a training set that cannot be split; labels missing from a sample.
    """

    def __init__(
        self,
        model=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        outer_dataset=None,
        compute_metrics=None,
        processing_class=None,
        **kwargs,
    ):
        if args is None:
            args = LfmTrainingArguments(output_dir="outputs")
        self.outer_dataset = outer_dataset
        self.processor = processing_class
        if train_dataset is not None and args.learns_alpha and outer_dataset is None:
            if args.alpha_holdout:
                seed = args.seed if args.data_seed is None else args.data_seed
                train_dataset, self.outer_dataset = split_holdout(train_dataset, args.alpha_holdout, seed)
            elif eval_dataset is None or isinstance(eval_dataset, dict):
                raise ValueError("alpha_holdout=0 learns alpha on eval_dataset: give one, or another alpha_holdout.")
            else:
                self.outer_dataset = eval_dataset
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics,
            **kwargs,
        )
        config = self.model.config
        if self.compute_metrics is None:
            self.compute_metrics = partial(
                compute_multimodal_metrics, modalities=config.modality_names, problem_type=config.problem_type
            )
        # Each batch's loss is its own mean, so transformers divides by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._loss_parts = defaultdict(float)
        self.alpha_callback = AlphaCallback()
        self.add_callback(self.alpha_callback)
        self._bind_alpha_callback()
        for plain, ours in ((ProgressCallback, LfmProgressCallback), (PrinterCallback, LfmPrinterCallback)):
            if self.pop_callback(plain) is not None:
                self.add_callback(ours)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    # -- objective ---------------------------------------------------------------------------------------------

    @property
    def alpha(self):
        """`float`: the weight of L_MM in this epoch; None before training."""
        return self.alpha_callback.alpha

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The objective in training; in evaluation the plain cross-entropy of the fused logits."""
        outputs = model(**inputs)
        if not model.training:
            loss = outputs.loss
        else:
            parts = self.loss_parts(outputs, inputs["labels"], gather=self.accelerator.num_processes > 1)
            for name, value in {**parts, "steps": torch.ones(())}.items():
                self._loss_parts[name] += value.detach() / self.current_gradient_accumulation_steps
            loss = total_loss(parts["loss_cls"], parts["loss_mm"], self.alpha, self.args.total)
        return (loss, outputs) if return_outputs else loss

    def loss_parts(self, outputs, labels, gather=False):
        """L_CLS and L_MM of a batch.

        Args:
            outputs ([`LfmOutput`])
            labels (`torch.Tensor` `(B,)` or `(B, num_labels)`)
            gather (`bool`): InfoNCE takes its negatives from all processes.

        Returns:
            `dict` with the scalars `loss_cls` and `loss_mm`.
        """
        problem_type = self.model.config.problem_type
        return {
            "loss_cls": classification_loss(outputs.logits, labels, problem_type),
            "loss_mm": matching_loss(
                self.args.matching_loss,
                outputs,
                labels,
                temperature=self.args.temperature,
                problem_type=problem_type,
                gather=gather,
            ),
        }

    # -- alpha -------------------------------------------------------------------------------------------------

    def make_alpha_schedule(self, num_epochs):
        """The alpha of `args` over `num_epochs` epochs (see [`make_alpha`])."""
        args = self.args
        coefficients = args.polynomial_coefficients
        return make_alpha(
            args.alpha,
            num_epochs=num_epochs,
            value=args.alpha_value,
            start=args.alpha_start,
            step=args.alpha_step,
            rule=args.alpha_rule,
            **({} if coefficients is None else {"coefficients": coefficients}),
        )

    def update_alpha(self, schedule, epoch):
        """Move a learned alpha before `epoch`: the same on every process, and without touching the random state."""
        problem = BilevelProblem(self)
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed + epoch)
            found = [problem.advance(schedule, epoch)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        values, logs = found[0]
        schedule.update(*values)
        self.log({**logs, "alpha": schedule.value(epoch)})

    def _bind_alpha_callback(self):
        self.alpha_callback = next(cb for cb in self.callback_handler.callbacks if isinstance(cb, AlphaCallback))
        self.alpha_callback.trainer = self

    def _load_callback_state(self):
        super()._load_callback_state()  # may put new objects in place of the callbacks
        self._bind_alpha_callback()

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.processor is not None:
            self.processor.save_pretrained(output_dir or self.args.output_dir)

    # -- logs --------------------------------------------------------------------------------------------------

    def log(self, logs, start_time=None):
        """As in transformers; entries with a training loss also get its parts and alpha."""
        if "loss" in logs and self._loss_parts:
            steps = float(self._loss_parts.pop("steps"))
            for name, value in self._loss_parts.items():
                logs[name] = self.accelerator.gather(value.reshape(1)).mean().item() / steps
            logs["alpha"] = self.alpha
            self._loss_parts.clear()
        super().log(logs, start_time)


def split_holdout(dataset, size, seed):
    """Keep a stratified part of a data set apart.

    Args:
        dataset (`datasets.Dataset` or map-style data set): samples with `labels`.
        size (`float`): a fraction below 1, or a number of samples.
        seed (`int`): of the draw.

    Returns:
        the rest and the kept part, of the same type (or `torch.utils.data.Subset`).
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError("a learned alpha needs a data set with a length, to hold a part out; or give outer_dataset.")
    labels = read_labels(dataset)
    kept = round(size * len(labels)) if size < 1 else int(size)
    classes, counts = np.unique(labels, return_counts=True) if labels.ndim == 1 else ([0], [len(labels)])
    if not 0 < kept < len(labels):
        raise ValueError(f"alpha_holdout={size} keeps {kept} of {len(labels)} training samples; change it.")
    single = np.isin(labels, classes[counts < 2]) if labels.ndim == 1 else np.zeros(len(labels), bool)
    indices = np.arange(len(labels))
    splittable = indices[~single]  # a class with one sample stays in training
    stratify = labels[splittable] if labels.ndim == 1 and kept >= len(classes) else None
    rest, held = train_test_split(splittable, test_size=kept, random_state=seed, stratify=stratify)
    rest, held = np.sort(np.concatenate([rest, indices[single]])), np.sort(held)
    if hasattr(dataset, "select"):
        return dataset.select(rest), dataset.select(held)
    return Subset(dataset, rest.tolist()), Subset(dataset, held.tolist())


def read_labels(dataset):
    """Labels of a data set, (N,) or (N, K) as a numpy array, read without the other columns where possible."""
    if hasattr(dataset, "column_names"):
        if "labels" not in dataset.column_names:
            raise ValueError(f"the data set needs a column 'labels'; it has {dataset.column_names}.")
        return np.asarray(dataset.with_format("numpy")["labels"][:])
    try:
        return np.asarray([np.asarray(dataset[i]["labels"]) for i in range(len(dataset))])
    except KeyError as error:
        raise ValueError("each sample of the data set needs the key 'labels'.") from error
