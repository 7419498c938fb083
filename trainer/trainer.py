"""`LfmTrainer`: transformers' training loop with a method's objective and hooks, and metrics for each modality."""

import json
import os
import shutil
import time
from collections import defaultdict

import torch
import torch.distributed as dist
import transformers
from transformers import PreTrainedConfig, PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from . import checkpoints
from .adapters import add_adapters, describe_bases
from .averaging import WeightAverager
from .calibration import Calibrator
from .callbacks import REPORTERS, LfmEarlyStoppingCallback, LfmProgressCallback, MethodCallback
from .cards.record import to_json
from .checkpoints import METHOD_STATE, naming_full_disk, only_run
from .collator import LfmDataCollator, SampleIdCollator, SampleIdDataset
from .fitting import (
    LossChooser,
    check_inputs,
    check_metrics,
    check_parts,
    check_training,
    make_model,
    name_classes,
    train_apart,
)
from .holdout import BalancedSampler, SampleReader, choose_holdout, is_stream
from .holes import PresenceCounter
from .hub import SharingTrainer
from .methods import Method, make_method
from .methods.base import split_groups
from .metrics import ModalityMeter
from .probe import LinearProber
from .rates import split_rates, tower_rates
from .search import Searcher
from .sharding import describe_sharding, own_class
from .training_args import LfmTrainingArguments

logger = logging.get_logger(__name__)


class LfmTrainer(
    Calibrator,
    LinearProber,
    LossChooser,
    ModalityMeter,
    PresenceCounter,
    SampleReader,
    Searcher,
    SharingTrainer,
    WeightAverager,
):
    """Trains [`LfmForMultimodalClassification`] with LFM, one of its rivals or a baseline (`args.method`).

    Everything not named here is as in `transformers.Trainer`.

    Args:
        model ([`LfmForMultimodalClassification`], `PeftModel` of one, or [`LfmConfig`]): of the last it is made by
            `from_towers`, with weights that `args.seed` draws, and with the classes of a `ClassLabel` of the training
            set where the configuration names none.
        args ([`LfmTrainingArguments`]): settings.
        train_dataset (`datasets.Dataset` or a map-style `torch.utils.data.Dataset`): samples are dicts of the model's
            inputs and `labels`; those that lack a modality hold None, or `{modality}_present` False, see
            [`Presence`]. For a method that watches held-out samples, `args.holdout` of it is kept for that
            unless `holdout_dataset` is given.
        holdout_dataset (*optional*): samples that such a method watches; never trained on. With `args.holdout` 0 it is
            the `eval_dataset`.
        compute_loss_func (*optional*): in place of the (binary) cross-entropy wherever the method has one, and in
            evaluation: from outputs with `logits` (B, K) and `labels` to the mean over the batch.
        compute_metrics (*optional*): in place of [`compute_multimodal_metrics`]; of `predictions`, the pair
            `(logits, modality_logits)`, and `label_ids`.
        processing_class ([`LfmProcessor`], *optional*): of which [`LfmDataCollator`] makes batches if there is no
            `data_collator`; saved beside the model. Also found as `processor`.
        method ([`Method`], *optional*): in place of the one that `args.method` names.

    Raises:
        ValueError: the method cannot train this model; a training set that cannot be split; labels missing from a
            sample.

    Example:

        ```python
        >>> import torch
        >>> from modeling_lfm import LfmConfig
        >>> from modeling_lfm.trainer import LfmTrainer, LfmTrainingArguments
        >>> data = [{"a_values": torch.rand(3), "b_values": torch.rand(3), "labels": n % 2} for n in range(40)]
        >>> config = LfmConfig(dict.fromkeys("ab", {"tower": "mlp", "in_features": 3}), hidden_size=8)
        >>> trainer = LfmTrainer(config, LfmTrainingArguments("outputs", num_train_epochs=1), data, eval_dataset=data)
        >>> trainer.train().global_step  # of 36 samples, 8 at a time: 4 are held out
        epoch  1.00 | ...
        5

        ```
    """

    def __init__(
        self,
        model=None,
        args=None,
        train_dataset=None,
        eval_dataset=None,
        holdout_dataset=None,
        compute_metrics=None,
        processing_class=None,
        method=None,
        compute_loss_func=None,
        **kwargs,
    ):
        args = LfmTrainingArguments(output_dir="outputs") if args is None else args
        self.method = method if isinstance(method, Method) else make_method(args.method)
        self.config_given = model if isinstance(model, PreTrainedConfig) else None
        if self.config_given is not None:
            model = make_model(model, args, train_dataset)
        if kwargs.get("data_collator") is None and hasattr(processing_class, "stack"):
            kwargs["data_collator"] = LfmDataCollator(processing_class)
        if model is not None:
            if train_dataset is not None:  # else the model is only looked at, whatever trained it
                self.method.check(model.config)
            add_adapters(model, args)
        self.given = train_dataset, eval_dataset, holdout_dataset
        self.bound = False
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._choose_data(args),
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics,
            processing_class=processing_class,
            **kwargs,
        )
        self.processor, self.plain_collator = processing_class, self.data_collator
        self.loss_func = compute_loss_func  # not `compute_loss_func`, whose losses transformers takes for sums
        if self.compute_metrics is None:
            check_metrics(self)
            self.compute_metrics = self._multimodal_metrics
        # Each batch's loss is its own mean, so transformers divides by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self._loss_parts = defaultdict(float)
        self.step_counts, self._coming_counts = None, None
        self.resumed_method = None
        self._saving, self._resumes = False, False
        self._bind()
        self.add_callback(MethodCallback())
        self._bind_method_callback()
        for plain in (ProgressCallback, PrinterCallback):
            if self.pop_callback(plain) is not None:
                self.add_callback(LfmProgressCallback(live=plain is ProgressCallback))
        for plain, ours in REPORTERS.items():
            if self.pop_callback(plain) is not None:
                self.add_callback(ours)
        if args.early_stopping_patience is not None:
            self.add_callback(LfmEarlyStoppingCallback(args.early_stopping_patience))

    def _choose_data(self, args):
        """The training set for the method, of what was given; `holdout_dataset` is set."""
        train_dataset, eval_dataset, self.holdout_dataset = self.given
        if train_dataset is not None and self.method.needs_holdout and self.holdout_dataset is None:
            train_dataset, self.holdout_dataset = choose_holdout(train_dataset, eval_dataset, args)
        if train_dataset is not None and self.method.needs_sample_ids:
            if is_stream(train_dataset):
                raise ValueError(f"method {self.method.spec.name} knows samples by their place; a stream has none.")
            train_dataset = SampleIdDataset(train_dataset)
        return train_dataset

    def _bind(self):
        """Let model and method know each other."""
        if self.train_dataset is not None:
            self.method.check(self.model.config)
        check_training(self)
        name_classes(self.model.config, self.given[0])
        if self.args.channels_last:
            self.model.to(memory_format=torch.channels_last)  # convolutions follow their weights, whatever their input
        with_ids = self.method.needs_sample_ids
        self.data_collator = SampleIdCollator(self.plain_collator) if with_ids else self.plain_collator
        self._set_loss()
        self.method.bind(self)
        self.check_probe()
        self.bound = True

    def _get_train_sampler(self, *args):
        if self.args.train_sampling_strategy != "balanced":
            return super()._get_train_sampler(*args)
        return BalancedSampler(self._labelled(), self.args.seed if self.args.data_seed is None else self.args.data_seed)

    # -- training ----------------------------------------------------------------------------------------------

    @property
    def epoch(self):
        """`int`: the epoch that is being trained, from 1."""
        return int(self.state.epoch or 0) + 1

    @property
    def accumulation(self):
        """`int`: batches whose gradients make up the current optimizer step."""
        return self.current_gradient_accumulation_steps

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        """As in transformers, with `output_dir` held against other runs; an error leaves the terminal as it was.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): the folder of a checkpoint, or True for the latest
                one in `output_dir` that is whole.

        Raises:
            BlockingIOError: another run writes to `output_dir`. ValueError: data and model do not fit together, see
            `fitting.check_parts`; the checkpoint is damaged, or of a run with other settings.
            FileNotFoundError: there is none. OSError: the disk is full.
        """
        folder = self.args.output_dir
        # transformers would write the special tokens of a processing_class, tokenizer or not, into the model's
        # configuration; it is back when training begins.
        self.processing_class = None
        try:
            with only_run(folder, self.args.process_index == 0), naming_full_disk(folder):
                checkpoints.check_shared(self)
                if self.args.process_index == 0:
                    shutil.rmtree(os.path.join(folder, checkpoints.UNFINISHED), ignore_errors=True)
                if self.model_init is None:  # else bound anew
                    self._set_loss()
                    self.method.check(self.model.config)  # to a trainer without data it was all the same
                    self.refuse_holes()
                    check_parts(self)
                calibrates = self.check_calibration()
                self.check_averaging()
                self.average = None
                self._loss_parts.clear()
                checkpoint = self._find_checkpoint(resume_from_checkpoint)
                with checkpoints.staying_ended(self, checkpoint):
                    output = super().train(checkpoint, *args, **kwargs)
                began = time.monotonic()
                self.fit_on_validation(calibrates)
                if self.args.linear_probe:  # which is all that was done
                    output.metrics["train_runtime"] = round(time.monotonic() - began, 4)
                return TrainOutput(output.global_step, output.metrics["train_loss"], output.metrics)
        finally:
            self.processing_class = self.processor
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, LfmProgressCallback):
                    callback.close()

    def _find_checkpoint(self, wanted):
        changed = self.args.resume_changed
        if wanted is True:
            wanted, passed = checkpoints.find_last_whole(self.args.output_dir, changed)
            for reason in passed:
                logger.warning(f"passed over: {reason}")
            if wanted is None:
                raise FileNotFoundError(f"no whole checkpoint to resume from in {self.args.output_dir}.")
        if wanted:
            checkpoints.check_resume(wanted, checkpoints.describe_settings(self), changed)
        self._resumes = bool(wanted)
        return wanted or None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The method's objective in training; in evaluation the plain cross-entropy of the fused logits."""
        inputs, outputs = dict(inputs), None
        if not model.training:
            inputs.pop("sample_ids", None)
            outputs = model(**inputs)
            if self.loss_func is not None and "labels" in inputs:
                outputs.loss = self.loss_func(outputs, inputs["labels"], num_items_in_batch=None)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        labels = inputs.pop("labels")
        self.step_counts = self._coming_counts
        if self.method.own_backward:
            parts = self.method.run_batch(inputs, labels)
            loss = parts.pop("loss").detach().requires_grad_()  # a leaf, so that a second backward changes nothing
        else:
            outputs = model(**{key: value for key, value in inputs.items() if key != "sample_ids"})
            parts = dict(self.method.losses(outputs, labels, inputs))
            loss = parts.pop("loss")
        self.step_counts = None
        for name, value in {**parts, "steps": torch.ones(())}.items():
            self._loss_parts[name] += value.detach() / self.accumulation
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, *args, **kwargs):
        """As in transformers, the batches of an optimizer step; what their samples lack is counted over all of them."""
        batches, number = super().get_batch_samples(*args, **kwargs)
        self._coming_counts = self.count_presence(batches, everywhere=self.may_lack())
        return batches, number

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._finish_gradients()
        return loss

    def evaluation_loop(self, dataloader, *args, **kwargs):
        """As in transformers; a `ValueError` names the modality whose inputs do not fit its tower."""
        try:
            return super().evaluation_loop(dataloader, *args, **kwargs)
        except (RuntimeError, IndexError, ValueError):
            if not is_stream(dataloader.dataset) and len(dataloader.dataset):
                check_inputs(self, [dataloader.dataset[0]])
            raise

    def floating_point_ops(self, inputs):
        """0: counted at each step as if a label were the only token, it would be wrong."""
        return 0

    def _finish_gradients(self):
        if self.method.own_backward:
            self.average_gradients()
        self.method.on_gradients()

    def create_optimizer(self, *args, **kwargs):
        """As in transformers (whose arguments differ by version), with the towers' and the method's learning rates."""
        if self.optimizer is None:
            super().create_optimizer(*args, **kwargs)
            asked = "momentum" in (self.args.optim_args or "")
            if asked and self.optimizer.defaults.get("momentum") == 0:  # or it would be left out in silence
                raise ValueError(
                    f"transformers {transformers.__version__} does not read optim_args={self.args.optim_args!r} of "
                    f"optim={self.args.optim.value}: install 5.3 or later."
                )
            self.optimizer.param_groups = split_rates(self.optimizer.param_groups, self.model)
            wanted = self.method.parameter_groups()
            if wanted is not None:
                self.optimizer.param_groups = split_groups(self.optimizer.param_groups, wanted)
        return self.optimizer

    # -- for methods -------------------------------------------------------------------------------------------

    def train_apart(self, model, method, num_train_epochs=None):
        """Train another model on the same data with the same settings, see `fitting.train_apart`."""
        return train_apart(LfmTrainer, self, model, method, num_train_epochs)

    def step_optimizer(self):
        """An optimizer step in the middle of a batch, for methods that take several; gradients are zero afterwards."""
        self._finish_gradients()
        if self.args.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.model.zero_grad()

    def reduce(self, tensor, reduction="mean"):
        """`tensor` averaged (`"mean"`) or added up (`"sum"`) over the processes; no gradient flows through it."""
        return self.accelerator.reduce(tensor, reduction) if self.args.world_size > 1 else tensor

    def average_gradients(self):
        """Average the gradients over the processes, in place of DistributedDataParallel."""
        if self.args.world_size == 1:
            return
        by_type = defaultdict(list)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                by_type[parameter.grad.dtype].append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.args.world_size
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    # -- state and logs ----------------------------------------------------------------------------------------

    def _bind_method_callback(self):
        self.method_callback = next(cb for cb in self.callback_handler.callbacks if isinstance(cb, MethodCallback))
        self.method_callback.trainer = self

    def _load_callback_state(self):
        super()._load_callback_state()  # may put new objects in place of the callbacks
        self._bind_method_callback()

    def _get_output_dir(self, trial=None):
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, checkpoints.UNFINISHED) if self._saving else folder

    def _save_checkpoint(self, model, trial):
        folder, main = self._get_output_dir(trial), self.args.should_save
        name = f"checkpoint-{self.state.global_step}"
        with checkpoints.unfinished(folder, main) as staging:
            self._saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving = False
            unfinished, checkpoint = os.path.join(staging, name), os.path.join(folder, name)
            best = os.path.join(folder, f"checkpoint-{self.state.best_global_step}")
            if best == checkpoint or os.path.isdir(best):
                self.state.best_model_checkpoint = best
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if main:
                checkpoints.write_state(self.state, unfinished)
                checkpoints.finish_checkpoint(unfinished, checkpoint, checkpoints.describe_settings(self))
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(checkpoint)
        if main:
            checkpoints.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self._saving:  # it gets another name when it is whole
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.state.epoch == int(self.state.epoch) or self.state.global_step >= self.state.max_steps:
            self.add_to_average()  # whose epoch ends after this checkpoint, and not again in a run that goes on from it
        state = {**self.method_callback.full_state(), **self._describe_losses(), "average": self.average}
        if self.args.should_save:
            torch.save(state, os.path.join(output_dir, METHOD_STATE))

    def _load_optimizer_and_scheduler(self, checkpoint):
        given = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.resume_changed:
            checkpoints.apply_settings(given, self.optimizer, self.lr_scheduler)
        file = os.path.join(checkpoint or "", METHOD_STATE)
        if checkpoint is not None and os.path.isfile(file):
            device = self.args.device if self.args.device.type != "cpu" else "cpu"  # no cpu:0, which torch cannot read
            self.resumed_method = torch.load(file, map_location=device, weights_only=True)

    def _describe_losses(self):
        """The sums of losses since the start and since the last log entry (`dict`), the mean of the processes."""
        if not hasattr(self, "_tr_loss"):  # transformers before 5.4 keep them where nobody reaches them
            return {}
        sums = {"_total_loss_scalar": self._total_loss_scalar, "_globalstep_last_logged": self._globalstep_last_logged}
        sums["_tr_loss"] = self.reduce(self._tr_loss.clone())
        return {"losses": sums, "parts": {name: self.reduce(v.clone()) for name, v in self._loss_parts.items()}}

    def resume_losses(self, saved):
        """Go on with the sums of losses, and the mean of weights, of a checkpoint (`dict`, see
        [`MethodCallback.full_state`])."""
        for name, value in saved.get("losses", {}).items():
            setattr(self, name, value)
        self._loss_parts.update(saved.get("parts", {}))
        self.average = saved.get("average")

    def save_model(self, output_dir=None, _internal_call=False):
        """As in transformers; in the `output_dir` of the run also its log, its record and its card, as programs and
        readers want them."""
        super().save_model(output_dir, _internal_call)
        if describe_sharding(self) == "SHARDED_STATE_DICT" and not self._saving:  # else only checkpoints hold it
            self._save(output_dir, self.accelerator.get_state_dict(self.model))
        if output_dir in (None, self.args.output_dir) and not (_internal_call or self.args.push_to_hub):
            self.save_state()
            self.create_model_card()

    def _save(self, output_dir=None, state_dict=None):
        self.processing_class = self.processor
        folder = self.args.output_dir if output_dir is None else output_dir
        if self._saving or not self.args.should_save:
            adapted = self._saving and describe_bases(self.model)  # as they are, not merged
            with own_class(self.model):
                super()._save(folder, self.model.state_dict() if adapted else state_dict)
            return
        with only_run(folder), checkpoints.unfinished(folder) as staging, own_class(self.model):
            shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
            super()._save(staging, state_dict)
            checkpoints.install_model(staging, folder)

    def save_metrics(self, split, metrics, combined=True):
        super().save_metrics(split, json.loads(to_json(metrics)), combined)

    def log(self, logs, start_time=None):
        """As in transformers; entries with a training loss also get its parts and what the method logs."""
        if "loss" in logs and self._loss_parts:
            steps = float(self._loss_parts.pop("steps"))
            for name, value in self._loss_parts.items():
                logs[name] = self.accelerator.gather(value.reshape(1)).mean().item() / steps
            logs.update(self.method.logs())
            self._loss_parts.clear()
        if "train_loss" in logs and self._resumes:  # of the whole run, not only of the steps since then
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        if "learning_rate" in logs and self.optimizer is not None:
            logs.update(tower_rates(self.optimizer.param_groups))
        super().log(logs, start_time)
