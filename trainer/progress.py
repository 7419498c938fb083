"""Progress on a terminal: a table of epochs that grows above a live line."""

import atexit
import logging
import sys
import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging as bars

from .log_lines import shown_keys

REFRESH = 0.2  # seconds between two drawings of the live line
BEST = "best"
LOSSES = ("loss", "loss_cls", "loss_mm", "eval_loss")
ACCURACIES = ("validation accuracy, %", "accuracy, %")  # as long as fits


@dataclass
class Column:
    """A column of the table.

    Args:
        key (`str`): of a log entry.
        title (`str`)
        form (`str`): format of its numbers.
        rank (`int`): where the terminal is narrow, the columns of the highest rank are left out.
        percent (`bool`): whether numbers are shares.
    """

    key: str
    title: str
    form: str = ".3f"
    rank: int = 0
    percent: bool = False

    @property
    def width(self):
        return max(len(self.title), {"time": 7, "epoch": 5}.get(self.key, 5 if self.percent else 7)) + 2

    def show(self, values):
        """The text of this column in a row (`dict` of numbers)."""
        value = values.get(self.key)
        if value is None:
            return "-"
        if self.key == "time":
            return show_seconds(value)
        return format(100 * value if self.percent else value, self.form)


def show_seconds(seconds):
    """Such as 1:02, or 1:00:02."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def choose_columns(modalities, keys, width, evaluates=True):
    """The columns that fit on a terminal.

    Args:
        modalities (`Sequence[str]`): names, in the model's order.
        keys (`Sequence[str]`): what training logs, such as `loss`, `loss_mm` and `alpha`.
        width (`int`): characters of a line.
        evaluates (`bool`): whether there are evaluations.

    Returns:
        `list[Column]`, in the order in which they are shown.
    """
    columns = [Column("epoch", "epoch", ".4g")]
    ranks = {"alpha": 2, "loss": 1}
    columns += [
        Column(key, key, ".3f" if key == "alpha" else "#.3g", ranks.get(key, 4 if key in LOSSES else 6)) for key in keys
    ]
    if evaluates:
        columns += [Column("eval_loss", "val. loss", "#.3g", 3), Column("eval_accuracy", "fused", ".1f", 0, True)]
        if len(modalities) > 1:
            columns += [Column(f"eval_{name}_accuracy", name, ".1f", 1, True) for name in modalities]
            columns += [Column("eval_gap", "gap", ".1f", 2, True)]
    columns += [Column("time", "time", rank=5)]
    while len(columns) > 1 and sum(column.width for column in columns) + len(BEST) + 2 > width:
        columns.remove(max(reversed(columns), key=lambda column: column.rank))
    return columns


def head_lines(columns):
    """The two lines above the rows: what the accuracies are, and the titles."""
    titles = "".join(column.title.rjust(column.width) for column in columns)
    before = sum(column.width for column in columns[: next((i for i, c in enumerate(columns) if c.percent), 0)])
    span = sum(column.width for column in columns if column.percent)
    group = next((name for name in ACCURACIES if len(name) + 4 < span), "%")
    return [" " * (before + 2) + f" {group} ".center(span - 2, "─"), titles] if span else [titles]


def redirect_logging(old, new):
    """Make the handlers of all loggers that write to the stream `old`, taken when they were made, write to `new`."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for handler in {handler for logger in loggers for handler in getattr(logger, "handlers", ())}:
        if getattr(handler, "stream", None) is old:
            handler.setStream(new)


class SpeedColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task):
        return Text("" if task.speed is None else f"{task.speed:.1f} steps/s", style="dim")


class LfmProgressCallback(TrainerCallback):
    """A row of the table for each epoch (or evaluation): losses, alpha, accuracy of the fused prediction and of each
    modality, and their gap. Below it a bar, steps a second and the time left.

    It draws from the thread that trains, so that processes which are forked meanwhile find no lock that is held.
    """

    def __init__(self):
        self.live = self.progress = self.training = self.checking = self.columns = None
        self.row, self.drawn, self.began, self.has_losses = {}, 0.0, 0.0, False

    # -- what the trainer tells ----------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not state.is_world_process_zero:
            return
        self.close()  # of a first try whose batches did not fit into memory
        self.row, self.columns, self.began = {}, None, time.monotonic()
        self.modalities = getattr(getattr(model, "config", None), "modality_names", ())
        self.open()
        self.training = self.progress.add_task("training", total=state.max_steps, completed=state.global_step)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.finish_row(state)
        if self.training is not None:
            text = f"epoch {int(state.epoch or 0) + 1} of {state.num_train_epochs}"
            self.progress.update(self.training, description=text)
            self.draw(now=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training is not None:
            self.progress.update(self.training, completed=state.global_step)
            self.draw()

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not state.is_world_process_zero or not has_length(eval_dataloader):
            return
        if self.checking is None:
            self.open()
            self.checking = self.progress.add_task("evaluation", total=len(eval_dataloader))
        self.progress.advance(self.checking)
        self.draw()

    def on_evaluate(self, args, state, control, **kwargs):
        if self.checking is not None:
            self.progress.remove_task(self.checking)
            self.checking = None
        if self.training is None:
            self.close()

    on_predict = on_evaluate

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training is None or not logs:
            return
        if "train_runtime" in logs:
            self.finish_row(state)
            speed = logs.get("train_samples_per_second")
            speed = "" if speed is None else f", {speed:.0f} samples a second"
            self.say(f"trained in {show_seconds(logs['train_runtime'])}{speed}", "dim")
        elif "loss" in logs or "eval_loss" in logs:  # others announce the alpha of the epoch to come
            if "eval_loss" in self.row:
                self.finish_row(state)
            if self.columns is None or ("loss" in logs and not self.has_losses):  # an evaluation may come first
                self.begin_table(args, logs)
            self.row |= {**logs, "time": time.monotonic() - self.began}
            self.draw(now=True)

    def on_save(self, args, state, control, **kwargs):
        self.finish_row(state)

    def on_train_end(self, args, state, control, **kwargs):
        self.finish_row(state)
        self.close()

    # -- drawing -------------------------------------------------------------------------------------------------

    def open(self):
        """Show the live line, if it is not there yet."""
        if self.live is not None:
            return
        console = Console()
        bar = BarColumn(bar_width=max(5, min(40, console.width - 55)))
        self.progress = Progress(
            TextColumn("{task.description}"), bar, TextColumn("{task.completed}/{task.total}"), SpeedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), console=console, auto_refresh=False,
        )  # fmt: skip
        self.live = Live(get_renderable=self.picture, console=console, auto_refresh=False, transient=True)
        self.had_bars = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # those of loading and saving would tear the live line
        stream = sys.stderr
        self.live.start(refresh=True)  # what is printed stands above the live line from now on
        redirect_logging(stream, sys.stderr)
        atexit.register(self.close)

    def close(self):
        """Take the live line away and leave the terminal as it was; rows stay."""
        if self.live is None:
            return
        stream = sys.stderr
        self.live.stop()
        redirect_logging(stream, sys.stderr)
        atexit.unregister(self.close)
        if self.had_bars:
            bars.enable_progress_bar()
        self.live = self.progress = self.training = self.checking = None

    def picture(self):
        """What is drawn over and over: the row that is not finished, and the bars."""
        return Group(self.line(self.row, "dim"), self.progress) if self.row else self.progress

    def draw(self, now=False):
        """Draw the live line anew if it is time to, or `now`."""
        if self.live is not None and (now or time.monotonic() - self.drawn > REFRESH):
            self.live.refresh()
            self.drawn = time.monotonic()

    def say(self, text, style=""):
        """A line that stays, above the live one."""
        line = text if isinstance(text, Text) else Text(text, style)
        line.no_wrap, line.overflow = True, "crop"
        self.live.console.print(line)

    def begin_table(self, args, logs):
        keys = [key for key in shown_keys(logs) if isinstance(logs[key], float) and not key.startswith("eval_")]
        keys = sorted(keys, key=lambda key: key != "alpha")
        self.has_losses = "loss" in logs
        width, evaluates = self.live.console.width, str(args.eval_strategy.value) != "no"
        self.columns = choose_columns(self.modalities, keys, width, evaluates)
        *group, titles = head_lines(self.columns)
        for line in group:
            self.say(line, "dim")
        self.say(titles, "bold")

    def line(self, row, style=""):
        """A row of the table as text."""
        text = Text(no_wrap=True, overflow="crop")
        for column in self.columns:
            bold = "bold" if column.key in ("eval_accuracy", "epoch") else ""
            text.append(column.show(row).rjust(column.width), f"{style} {bold}".strip())
        return text

    def finish_row(self, state):
        """Print the row, with a mark if its evaluation is the best of all so far."""
        if self.training is None or not self.row:
            return
        line = self.line(self.row)
        if "eval_loss" in self.row and getattr(state, "best_global_step", None) == state.global_step:
            line.append(f"  {BEST}", "bold green")
        self.row = {}
        self.say(line)
