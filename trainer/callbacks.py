"""Callbacks of [`LfmTrainer`]: one that drives the method, one that shows progress, and those that report elsewhere."""

import atexit
import importlib.util
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback, TrackioCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length
from transformers.utils import logging as bars

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
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = self.trainer.epoch
        if hasattr(self.trainer.train_dataset, "set_epoch"):
            # accelerate does so too late for a method that reads samples now, and not at all on several processes
            self.trainer.train_dataset.set_epoch(epoch - 1)
        if epoch > self.begun_epoch:  # else resumed in the middle of an epoch that has begun
            self.trainer.method.on_epoch_begin(epoch)
            self.begun_epoch = epoch

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.method.on_train_end()


# -- progress --------------------------------------------------------------------------------------------------

SHOWN_FIRST = ("loss", "loss_cls", "loss_mm", "alpha", "hypergradient_cosine")
HIDDEN = ("total_flos", "runtime", "per_second", "norm", "learning_rate", "epoch")
HIDDEN_ENDS = ("_map", "_f1", "hypergradient_iterations", "hypergradient_residual", "hypergradient_outer_loss")
FLAGS = ("hypergradient_negative_curvature", "hypergradient_diverged")  # shown where they are raised
REFRESH = 0.2  # seconds between two drawings of the live line


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


def choose_columns(modalities, keys, width, evaluates=True):
    """The columns of the table that fit on a terminal.

    Args:
        modalities (`Sequence[str]`): names, in the model's order.
        keys (`Sequence[str]`): what training logs, such as `loss`, `loss_mm` and `alpha`.
        width (`int`): characters of a line.
        evaluates (`bool`): whether there are evaluations.

    Returns:
        `dict[str, str]`: from the key of a log entry to its title, in the order in which they are shown.
    """
    accuracies = {f"eval_{name}_accuracy": f"{name} %" for name in modalities} if len(modalities) > 1 else {}
    evaluated = {"eval_loss": "val. loss", "eval_accuracy": "fused %", **accuracies}
    evaluated |= {"eval_gap": "gap %"} if accuracies else {}
    shown = {"epoch": "epoch", **{key: key for key in keys}, **(evaluated if evaluates else {}), "time": "time"}
    first = ("epoch", "eval_accuracy", *accuracies, "loss", "alpha", "eval_gap", "eval_loss")
    kept, left = set(), width - 8  # for the word "best"
    for key in (*first, *(key for key in shown if key not in first)):
        left -= column_width(shown[key]) if key in shown else 0
        if key in shown and left >= 0:
            kept.add(key)
    return {key: title for key, title in shown.items() if key in kept}


def column_width(title):
    """Characters of a column with this title, and the space before it."""
    return max(len(title), 7) + 2


def format_cell(key, row):
    """The number `key` of a row (`dict`) as text."""
    value = row.get(key)
    if value is None:
        return "-"
    if key == "time":
        return str(timedelta(seconds=round(value)))
    if key.endswith(("accuracy", "gap")):
        return f"{100 * value:.1f}"
    return format(value, {"epoch": ".4g", "alpha": ".3f"}.get(key, "#.3g"))


class LfmProgressCallback(TrainerCallback):
    """On a terminal a table, an epoch (or evaluation) a row, above a live line; elsewhere, or unless `live`, lines.

    It draws from the thread that trains, so that processes which are forked meanwhile find no lock that is held. Of
    what is evaluated outside of training no numbers are shown: the caller has them.
    """

    def __init__(self, live=True):
        terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")
        self.live = live and terminal
        self.training, self.display, self.row, self.columns, self.drawn = False, None, {}, None, 0.0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.close()  # of a first try whose batches did not fit into memory
        self.training = state.is_world_process_zero
        self.row, self.columns, self.began = {}, None, time.monotonic()
        self.modalities = getattr(getattr(model, "config", None), "modality_names", ())
        if self.live and self.training:
            self.open()
            self.steps = self.bars.add_task("training", total=state.max_steps, completed=state.global_step)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.finish_row(state)
        self.advance("steps", description=f"epoch {int(state.epoch or 0) + 1} of {state.num_train_epochs}")

    def on_step_end(self, args, state, control, **kwargs):
        self.advance("steps", completed=state.global_step)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if self.live and state.is_world_process_zero and has_length(eval_dataloader):
            if self.display is None:
                self.open()
            if self.batches is None:
                self.batches = self.bars.add_task("evaluation", total=len(eval_dataloader))
            self.advance("batches", advance=1)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.display is not None and self.batches is not None:
            self.bars.remove_task(self.batches)
            self.batches = None
            if not self.training:
                self.close()

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        self.on_evaluate(args, state, control)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not self.training or not logs:
            return
        if not self.live:
            print(format_logs(logs), flush=True)
        elif "train_runtime" in logs:
            self.finish_row(state)
            self.display.console.print(f"trained in {timedelta(seconds=round(logs['train_runtime']))}", style="dim")
        elif "loss" in logs or "eval_loss" in logs:  # others announce the alpha of the epoch to come
            if "eval_loss" in self.row:
                self.finish_row(state)
            if self.columns is None or ("loss" in logs and "loss" not in self.columns):  # an evaluation may come first
                self.begin_table(args, logs)
            self.row |= {**logs, "time": time.monotonic() - self.began}

    def on_save(self, args, state, control, **kwargs):
        self.finish_row(state)

    def on_train_end(self, args, state, control, **kwargs):
        self.finish_row(state)
        self.close()

    def open(self):
        """Show the live line."""
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        console = Console()
        parts = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Progress(*parts, console=console, auto_refresh=False)
        self.display = Live(self.bars, console=console, auto_refresh=False, transient=True)
        self.batches, self.had_bars = None, bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # those of loading and saving would tear the live line
        self.display.start()  # what is printed stands above the live line from now on
        atexit.register(self.close)

    def close(self):
        """Take the live line away, and leave the terminal as it was; rows stay."""
        self.training = False
        if self.display is not None:
            self.display.stop()
            atexit.unregister(self.close)
            if self.had_bars:
                bars.enable_progress_bar()
            self.display = None

    def advance(self, task, **changes):
        """Move the bar of `steps` or `batches`, and draw it if it is time to."""
        if self.display is not None:
            self.bars.update(getattr(self, task), **changes)
            if time.monotonic() - self.drawn > REFRESH:
                self.display.refresh()
                self.drawn = time.monotonic()

    def begin_table(self, args, logs):
        keys = [key for key in shown_keys(logs) if isinstance(logs[key], float) and not key.startswith("eval_")]
        keys = sorted(keys, key=lambda key: key != "alpha")
        evaluates = str(args.eval_strategy.value) != "no"
        self.columns = choose_columns(self.modalities, keys, self.display.console.width, evaluates)
        self.print_line(self.columns, "bold")

    def finish_row(self, state):
        """Print the row, with a mark if its evaluation is the best of all so far."""
        if self.display is not None and self.row:
            best = "eval_loss" in self.row and state.best_global_step == state.global_step
            cells = {key: format_cell(key, self.row) for key in self.columns}
            self.row = {}
            self.print_line(cells, end="  best" if best else "")

    def print_line(self, cells, style=None, end=""):
        texts = (cells[key].rjust(column_width(title)) for key, title in self.columns.items())
        self.display.console.print("".join(texts) + end, style=style, highlight=False, no_wrap=True, overflow="crop")


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
