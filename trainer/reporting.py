"""`report_to`: one run in TensorBoard or trackio for one run here, resumed or not, with curves that can be compared."""

import importlib.util
import time
from pathlib import Path

from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback, TrackioCallback

PACKAGES = ("tensorboard", "trackio")  # those of the extra `track`


def check_report_to(names):
    """Raise a `ValueError` if logs cannot be sent to one of `names` (`list[str]`): unknown, or not installed."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to={name!r} is unknown; choose of {', '.join(INTEGRATION_TO_CALLBACK)}, or none.")
        if name in PACKAGES and importlib.util.find_spec(name) is None:
            raise ValueError(f'report_to={name!r} needs {name}: pip install {name}, or "modeling-lfm[track]".')


def run_name(args, state):
    """The name of a run: that of `args`, or else its folder and when it began, which a resumed run remembers."""
    began = {"run_name": f"{Path(args.output_dir).resolve().name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"}
    saved = state.stateful_callbacks.setdefault("reporting", {"args": {}, "attributes": began})
    return args.run_name or saved["attributes"]["run_name"]


def in_force(logs):
    """A log entry without the alpha of the epoch to come, which the next entries have at the steps where it counts."""
    return {key: value for key, value in logs.items() if key != "alpha" or "loss" in logs}


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
            self.tb_writer.add_custom_scalars(chart_layout(getattr(model.config, "modality_names", ())))

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=in_force(logs or {}), **kwargs)


def chart_layout(modalities):
    """Charts of TensorBoard's tab "Custom scalars" (`dict`, see `SummaryWriter.add_custom_scalars`)."""
    accuracies = ["eval/accuracy", *(f"eval/{name}_accuracy" for name in modalities)]
    charts = {"accuracy": accuracies, "modality gap": ["eval/gap"], "alpha": ["train/alpha"]}
    charts |= {"losses": ["train/loss", "train/loss_cls", "train/loss_mm", "eval/loss"]}
    return {"LFM": {title: ["Multiline", [f"{tag}$" for tag in tags]] for title, tags in charts.items()}}


class LfmTrackioCallback(TrackioCallback):
    """As in transformers, but what is evaluated after training, or trained after a stop, belongs to the same run."""

    def setup(self, args, state, model=None, **kwargs):
        args.run_name = run_name(args, state)
        super().setup(args, state, model, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=in_force(logs or {}), **kwargs)


REPORTERS = {TensorBoardCallback: LfmTensorBoardCallback, TrackioCallback: LfmTrackioCallback}
