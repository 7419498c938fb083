"""Callbacks of [`LfmTrainer`]: one that drives the method, one that shows progress, and those that report elsewhere."""

import importlib.util
import sys
import time
from datetime import timedelta
from pathlib import Path

from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback, TrackioCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from modeling_lfm.registry_lfm import suggest


class MethodCallback(TrainerCallback, ExportableState):
    """Tells the method when training and epochs begin, and shows its numbers in `trainer_state.json`.

    transformers makes the object anew from its state in some resumes, hence no arguments; [`LfmTrainer`] sets
    `trainer`. What a resumed run needs is `full_state`, which the trainer keeps beside the optimizer's.
    """

    def __init__(self):
        self.trainer = None
        self.begun_epoch = 0

    def state(self):
        method = {} if self.trainer is None else {"method": self.trainer.method.spec.name, **self.trainer.method.logs()}
        return {"args": {}, "attributes": {"begun_epoch": self.begun_epoch, **method}}

    def full_state(self):
        """State of the method (`dict` of tensors and plain values) and the last epoch that it saw begin."""
        method = self.trainer.method
        return {"method": method.spec.name, "begun_epoch": self.begun_epoch, "state": method.state_dict()}

    def on_train_begin(self, args, state, control, **kwargs):
        trainer, method = self.trainer, self.trainer.method
        trainer.processing_class = trainer.processor
        trainer.model.config.calibration = None  # that of weights which are trained further
        saved, trainer.resumed_method = trainer.resumed_method, None
        if saved is not None and saved["method"] != method.spec.name:
            raise ValueError(
                f"the checkpoint is of method {saved['method']}, not {method.spec.name}: resume with that one."
            )
        if saved is None:
            self.begun_epoch = 0
            method.on_train_begin()
        else:
            self.begun_epoch = saved["begun_epoch"]
            method.load_state_dict(saved["state"])
            trainer.resume_losses(saved)
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = self.trainer.epoch
        if hasattr(self.trainer.train_dataset, "set_epoch"):
            # accelerate does so too late for a method that reads samples now, and not at all on several processes
            self.trainer.train_dataset.set_epoch(epoch - 1)
        if epoch > self.begun_epoch:  # else resumed in the middle of an epoch that has begun
            self.trainer.method.on_epoch_begin(epoch)
            self.begun_epoch = epoch

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.add_to_average()

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.method.on_step_begin(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.use_average()  # before what the method does to the weights
        self.trainer.method.on_train_end()


class LfmEarlyStoppingCallback(EarlyStoppingCallback):
    """As in transformers, but a resumed run has as much patience left as the run had at its checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        saved = state.stateful_callbacks.get(type(self).__name__, {}) if state.global_step else {}
        self.early_stopping_patience_counter = saved.get("attributes", {}).get("early_stopping_patience_counter", 0)


class TimeLimitCallback(TrainerCallback):
    """Stops training so many `seconds` after its beginning, with an evaluation and a checkpoint."""

    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_begin(self, args, state, control, **kwargs):
        self.end = time.monotonic() + self.seconds

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() > self.end:
            control.should_evaluate = control.should_save = control.should_training_stop = True


# -- progress --------------------------------------------------------------------------------------------------

SHOWN_FIRST = ("loss", "loss_cls", "loss_mm", "alpha", "hypergradient_cosine")
HIDDEN = ("total_flos", "runtime", "per_second", "norm", "learning_rate", "epoch")
HIDDEN_ENDS: tuple[str, ...] = ("_map", "_f1", "_error_before", "_error_after")
HIDDEN_ENDS += ("hypergradient_iterations", "hypergradient_residual", "hypergradient_outer_loss")
FLAGS = ("hypergradient_negative_curvature", "hypergradient_diverged")  # shown where they are raised


def shown_keys(logs):
    """Keys of a log entry that are worth a look (`list[str]`), the important first, without bookkeeping."""
    keys = [key for key in SHOWN_FIRST if key in logs]
    hidden = {key for key in logs if any(part in key for part in HIDDEN) or key.endswith(HIDDEN_ENDS)}
    hidden |= {key for key in FLAGS if not logs.get(key)}
    return keys + [key for key in logs if key not in keys and key not in hidden]


def format_logs(logs):
    """One readable line of a log entry: the [`shown_keys`], floats to four digits."""
    parts = [
        f"{key} {logs[key]:.4g}" if isinstance(logs[key], float) else f"{key} {logs[key]}" for key in shown_keys(logs)
    ]
    return f"epoch {logs.get('epoch', 0):5.2f} | " + "  ".join(parts)


def titles_of(row):
    """From the keys of a row (`dict`) that are shown to their titles (`dict`), those that tell most first."""
    alone = [key for key in row if key.startswith("eval_") and key.endswith("_accuracy") and key != "eval_accuracy"]
    titles = {"epoch": "epoch", "eval_accuracy": "fused %"}
    if len(alone) > 1:
        titles |= {key: f"{key[5:-9]} %" for key in alone} | {"eval_gap": "gap %"}
    titles |= {"alpha": "alpha", "loss": "loss", "eval_loss": "val. loss"}
    trained = [key for key in shown_keys(row) if isinstance(row[key], float) and not key.startswith("eval_")]
    titles = {**titles, **{key: key for key in trained if key != "time"}, "time": "time"}
    return {key: title for key, title in titles.items() if key in row}


def format_cell(key, value):
    """A number (`float`, None where there is none) of the column `key` as text."""
    if value is None:
        return "-"
    if key == "time":
        return str(timedelta(seconds=round(value)))
    if key.endswith(("accuracy", "gap")):
        return f"{100 * value:.1f}"
    return format(value, {"epoch": ".4g", "alpha": ".3f"}.get(key, "#.3g"))


class LfmProgressCallback(ProgressCallback):
    """On a terminal the bar of transformers, below a table with a row an epoch or evaluation; elsewhere, or unless
    `live`, lines. Of what is evaluated outside of training no numbers are shown: the caller has them."""

    def __init__(self, live=True):
        super().__init__()
        self.live = live and sys.stderr.isatty()
        self.training, self.row, self.titles = False, {}, {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.close()  # of a first try whose batches did not fit into memory
        if args.linear_probe:  # there are no epochs
            return
        self.training, self.row, self.titles, self.began = state.is_world_process_zero, {}, {}, time.monotonic()
        if self.live and self.training:
            super().on_train_begin(args, state, control, **kwargs)
            self.training_bar.leave = False
            self.had_bars = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()  # those of saving would stand between the rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.finish_row(state)
        if self.training_bar is not None:
            self.training_bar.set_description(f"epoch {int(state.epoch or 0) + 1} of {state.num_train_epochs}")

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.live:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)
            if self.prediction_bar is not None:
                self.prediction_bar.leave = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not self.training or not logs:
            return
        if not self.live:
            print(format_logs(logs), flush=True)
        elif "train_runtime" in logs:
            self.finish_row(state)
            self.training_bar.write(f"trained in {timedelta(seconds=round(logs['train_runtime']))}")
        elif "loss" in logs or "eval_loss" in logs:  # others announce the alpha of the epoch to come
            if "eval_loss" in self.row:
                self.finish_row(state)
            self.row |= {**logs, "time": time.monotonic() - self.began}

    def on_save(self, args, state, control, **kwargs):
        self.finish_row(state)

    def on_train_end(self, args, state, control, **kwargs):
        self.finish_row(state)
        self.close()

    def close(self):
        """Take the bars away, and let others show theirs; the rows of the table stay."""
        self.training = False
        if self.training_bar is not None and self.had_bars:
            logging.enable_progress_bar()
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None

    def finish_row(self, state):
        """Print the row, with a mark if its evaluation is the best of all so far, below titles that fit it."""
        if self.training_bar is None or not self.row:
            return
        row, self.row, found = self.row, {}, titles_of(self.row)
        if not found.keys() <= self.titles.keys():
            self.titles = found
            self.write_line(found)
        best = "eval_loss" in row and state.best_global_step == state.global_step
        self.write_line({key: format_cell(key, row.get(key)) for key in self.titles}, "  best" if best else "")

    def write_line(self, cells, end=""):
        texts = (cells[key].rjust(max(len(title), 7) + 2) for key, title in self.titles.items())
        self.training_bar.write("".join(texts) + end)


# -- reports ---------------------------------------------------------------------------------------------------

PACKAGES = ("tensorboard", "trackio")  # those of the extra `track`


def check_report_to(names):
    """Raise a `ValueError` if logs cannot be sent to one of `names` (`list[str]`): unknown, or not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to={name!r} is unknown; {suggest(name, [*INTEGRATION_TO_CALLBACK, 'none'])}")
        package = {"azure_ml": "azureml", "flyte": "flytekit"}.get(name, name)
        if importlib.util.find_spec(package) is None:
            extra = ', or "modeling-lfm[track]"' if name in PACKAGES else ""
            raise ValueError(f"report_to={name!r} needs {package}: pip install {package}{extra}.")


def run_name(args, state):
    """The name of a run: that of `args`, or else its folder and when it began, which a resumed run remembers."""
    began = {"run_name": f"{Path(args.output_dir).resolve().name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"}
    saved = state.stateful_callbacks.setdefault("reporting", {"args": {}, "attributes": began})
    return args.run_name or saved["attributes"]["run_name"]


def in_force(logs):
    """A log entry without the alpha of the epoch to come, which the next entries have at the steps where it counts."""
    return {key: value for key, value in (logs or {}).items() if key != "alpha" or "loss" in logs}


class LfmTensorBoardCallback(TensorBoardCallback):
    """As in transformers; a resumed run goes on in the same folder, and the tab "Custom scalars" has one chart each for
    the accuracies, the losses, alpha and the gap."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero and not state.is_hyper_param_search:
            from torch.utils.tensorboard import SummaryWriter

            if self.logging_dir is None:
                self.logging_dir = str(Path(args.output_dir) / "runs" / run_name(args, state))
            # What was logged after the checkpoint from which a run is resumed comes again.
            self.tb_writer = SummaryWriter(self.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, model=model, **kwargs)
        if self.tb_writer is not None:
            names = getattr(model.config, "modality_names", ())
            charts = {"accuracy": ["eval/accuracy", *(f"eval/{name}_accuracy" for name in names)]}
            charts |= {"modality gap": ["eval/gap"], "alpha": ["train/alpha"]}
            charts |= {"losses": ["train/loss", "train/loss_cls", "train/loss_mm", "eval/loss"]}
            lines = {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in charts.items()}
            self.tb_writer.add_custom_scalars({"LFM": lines})

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=in_force(logs), **kwargs)


class LfmTrackioCallback(TrackioCallback):
    """As in transformers, but what is evaluated after training, or trained after a stop, belongs to the same run."""

    def setup(self, args, state, model=None, **kwargs):
        args.run_name = run_name(args, state)
        super().setup(args, state, model, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=in_force(logs), **kwargs)


REPORTERS = {TensorBoardCallback: LfmTensorBoardCallback, TrackioCallback: LfmTrackioCallback}
