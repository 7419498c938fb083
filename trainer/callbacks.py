"""Callbacks of [`LfmTrainer`]: one that drives the method, and readable progress."""

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState


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
        method, saved = self.trainer.method, self.trainer._resumed_method
        self.trainer._resumed_method = None
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
