"""Copies of what a model and its optimizer are at a step, and bringing them back."""

import torch


def on_cpu(value):
    """A copy of nested dicts whose tensors lie on the CPU."""
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def save_state(trainer):
    """A copy of the model that `trainer` trains and of the optimizer's moments (`dict`), on the CPU."""
    return on_cpu({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()["state"]})


def restore_state(trainer, saved):
    """Bring such a copy back; learning rates stay as they are."""
    trainer.model.load_state_dict(saved["model"])
    optimizer = trainer.optimizer
    optimizer.load_state_dict({**optimizer.state_dict(), "state": on_cpu(saved["optimizer"])})
