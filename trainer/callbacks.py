"""Callbacks of [`LfmTrainer`]: one that drives the method, and the choice of how progress is shown."""

import os
import sys

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .log_lines import LfmPrinterCallback


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
        self.trainer.processing_class = self.trainer.processor
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


def make_progress(live=True):
    """The callback that shows progress: on a terminal a table above a live line, elsewhere, or unless `live`, lines."""
    if live and sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb"):
        from .progress import LfmProgressCallback

        return LfmProgressCallback()
    return LfmPrinterCallback()


def close_progress(callbacks):
    """Take away the live line that a run left behind which ended by an error."""
    for callback in callbacks:
        if hasattr(callback, "close"):
            callback.close()
