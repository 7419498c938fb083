"""Callbacks of [`LfmTrainer`]: alpha, whose state is saved with every checkpoint, and readable progress."""

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState


class AlphaCallback(TrainerCallback, ExportableState):
    """Moves alpha at the start of each epoch and keeps its state in `trainer_state.json`.

    transformers makes the object anew from its state in some resumes, hence no arguments; [`LfmTrainer`] sets
    `trainer` and `schedule`.
    """

    def __init__(self):
        self.trainer = None
        self.schedule = None
        self.alpha = None
        self.updated_epoch = 0

    def state(self):
        schedule = {} if self.schedule is None else self.schedule.state_dict()
        return {
            "args": {},
            "attributes": {"alpha": self.alpha, "updated_epoch": self.updated_epoch, "schedule_state": schedule},
        }

    def on_train_begin(self, args, state, control, **kwargs):
        self.schedule = self.trainer.make_alpha_schedule(state.num_train_epochs)
        saved = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step == 0 or saved is None:
            self.alpha, self.updated_epoch = None, 0
        else:
            self.alpha = saved["attributes"]["alpha"]
            self.updated_epoch = saved["attributes"]["updated_epoch"]
            self.schedule.load_state_dict(saved["attributes"]["schedule_state"])
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = int(state.epoch or 0) + 1
        if epoch <= self.updated_epoch:
            return  # resumed in the middle of an epoch whose alpha is already known
        if args.learns_alpha and epoch > 1:
            self.trainer.update_alpha(self.schedule, epoch)
        self.alpha = self.schedule.value(epoch)
        self.updated_epoch = epoch


_SHOWN_FIRST = ("loss", "loss_cls", "loss_mm", "alpha", "hypergradient_cosine")
_HIDDEN = ("total_flos", "runtime", "per_second", "grad_norm", "learning_rate", "norm", "epoch")


def format_logs(logs):
    """One readable line of a log entry: floats to four digits, the important first, bookkeeping left out."""
    keys = [key for key in _SHOWN_FIRST if key in logs]
    keys += [key for key in logs if key not in keys and not any(part in key for part in _HIDDEN)]
    parts = [f"{key} {logs[key]:.4g}" if isinstance(logs[key], float) else f"{key} {logs[key]}" for key in keys]
    return f"epoch {logs.get('epoch', 0):5.2f} | " + "  ".join(parts)


class LfmProgressCallback(ProgressCallback):
    """transformers' progress bar, with [`format_logs`] lines above it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(format_logs(logs))


class LfmPrinterCallback(PrinterCallback):
    """[`format_logs`] lines without a progress bar."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            print(format_logs(logs), flush=True)
