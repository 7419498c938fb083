"""What tests of methods share: one plain step of gradient descent, and the same step written out."""

import copy

import torch
from transformers import TrainerCallback

ONE_STEP = {
    "size": 8,
    "num_train_epochs": 1,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}


def stack(samples):
    """A batch of all samples."""
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def twin(trainer):
    """A copy of the untrained model in training mode, and the whole training set as one batch."""
    return copy.deepcopy(trainer.model).train(), stack(trainer.train_dataset)


def assert_one_step(model, reference, factors=None, rate=0.1):
    """`model` is `reference` after a step down the gradients of `reference`, times `factors` (parameter to number)."""
    factors = {} if factors is None else factors
    for (name, one), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        expected = other if other.grad is None else other - rate * factors.get(other, 1.0) * other.grad
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


class EpochWatcher(TrainerCallback):
    """Keeps, after each epoch, the weights and what `measure()` gives."""

    def __init__(self, trainer, measure):
        self.model, self.measure, self.weights, self.measured = trainer.model, measure, [], []
        trainer.add_callback(self)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.weights.append(copy.deepcopy(self.model.state_dict()))
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self.measured.append(self.measure())
        self.model.train(training)
