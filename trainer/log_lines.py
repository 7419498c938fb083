"""Log entries of training as readable lines."""

from transformers import PrinterCallback

_SHOWN_FIRST = ("loss", "loss_cls", "loss_mm", "alpha", "hypergradient_cosine")
_HIDDEN = ("total_flos", "runtime", "per_second", "grad_norm", "learning_rate", "norm", "epoch")
_HIDDEN_ENDS = ("_map", "_f1", "hypergradient_iterations", "hypergradient_residual", "hypergradient_outer_loss")
_FLAGS = ("hypergradient_negative_curvature", "hypergradient_diverged")  # shown where they are raised


def shown_keys(logs):
    """Keys of a log entry that are worth a look (`list[str]`), the important first, without bookkeeping."""
    keys = [key for key in _SHOWN_FIRST if key in logs]
    hidden = {key for key in logs if any(part in key for part in _HIDDEN) or key.endswith(_HIDDEN_ENDS)}
    hidden |= {key for key in _FLAGS if not logs.get(key)}
    return keys + [key for key in logs if key not in keys and key not in hidden]


def format_logs(logs):
    """One readable line of a log entry: the [`shown_keys`], floats to four digits."""
    parts = [
        f"{key} {logs[key]:.4g}" if isinstance(logs[key], float) else f"{key} {logs[key]}" for key in shown_keys(logs)
    ]
    return f"epoch {logs.get('epoch', 0):5.2f} | " + "  ".join(parts)


class LfmPrinterCallback(PrinterCallback):
    """[`format_logs`] lines of training, for files, pipes and logs of batch systems.

    What is evaluated outside of training is not printed: the caller has it.
    """

    training = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.training = True

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training and state.is_world_process_zero and logs:
            print(format_logs(logs), flush=True)
