"""The mean of the weights after the last epochs, in place of those of the best or the last epoch.

Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (SWA), UAI 2018; here after
each epoch of a plain run. It needs a learning rate that has not gone to zero, such as a constant one.
"""

import math

import numpy as np
import torch
from torch.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from transformers.utils import logging

from .fitting import unchanged_random_state
from .holdout import is_stream

logger = logging.get_logger(__name__)
BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)


class WeightAverager:
    """The part of [`LfmTrainer`] that keeps the mean of the weights of the last `args.average_epochs` epochs."""

    average = None
    """`dict`: number of `epochs` so far, the `last` of them, and the `mean` of each weight; part of a checkpoint."""

    def check_averaging(self):
        """Raise a `ValueError` where the weights of the last epochs cannot be averaged."""
        if not self.args.average_epochs:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("average_epochs needs whole weights: train without FSDP and DeepSpeed.")
        if self.args.early_stopping_patience is not None:
            raise ValueError("average_epochs are the last of all: leave out early_stopping_patience.")

    def add_to_average(self):
        """Take the weights at the end of an epoch into the mean, once, if it is one of the last."""
        epoch = math.ceil(round(self.state.epoch, 6))
        if self.state.num_train_epochs - epoch >= self.args.average_epochs or epoch == (self.average or {}).get("last"):
            return
        weights = {key: value.detach() for key, value in self.model.state_dict().items()}
        if self.average is None:
            kept = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
            self.average = {"epochs": 1, "last": epoch, "mean": {key: value.clone() for key, value in kept.items()}}
            return
        self.average["epochs"], self.average["last"] = self.average["epochs"] + 1, epoch
        for key, mean in self.average["mean"].items():
            if mean.is_floating_point():
                mean += (weights[key] - mean) / self.average["epochs"]
            else:
                mean.copy_(weights[key])

    def use_average(self):
        """Give the model the mean of the weights; what batch normalisation keeps is measured anew on training data."""
        if self.average is None:  # none was asked for, or no step taken
            return
        self.model.load_state_dict(self.average["mean"])
        self._measure_statistics()
        self.log({"averaged": self.average["epochs"]})
        self.average = None

    @torch.no_grad()
    def _measure_statistics(self):
        trains = self.model.training
        self.model.train()  # frozen towers stay in evaluation mode
        norms = [m for m in self.model.modules() if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats]
        if norms and is_stream(self.train_dataset):
            logger.warning("batch normalisation has the mean statistics of the epochs: a stream is not read again.")
            norms = []
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        if norms:
            dataset = self.train_dataset
            order = np.random.default_rng(self.args.seed).permutation(len(dataset))
            with unchanged_random_state(self.args.device):
                for batch in self.make_batches(dataset, order):
                    self.model(**{k: v for k, v in batch.items() if k != "labels"})
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.model.train(trains)
