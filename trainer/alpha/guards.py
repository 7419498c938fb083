"""What an update of alpha leaves as it was: running statistics, and parameters that are spread over the processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

NORMALISATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


@contextmanager
def frozen_norm_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Batch statistics without running ones, and no dropout, inside the block; everything as before after it.

    Batch normalisation uses the statistics of the batch at hand, which tames the curvature that the learned
    alpha has to invert; all other modules are in evaluation mode, so that dropout, also the functional one inside
    attention, is off and two passes over the same data agree. On leaving, by an exception too, every buffer
    (running statistics, counters) and every module's `training` flag is what it was, to the bit. Gradients of
    what was computed inside must be taken inside.

    Yields:
        the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.eval()
        for module in model.modules():
            if isinstance(module, NORMALISATIONS):
                module.training = True
        yield model
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, saved in buffers:
                setattr(module, name, buffer)  # a module may have put a new tensor in its place
                buffer.copy_(saved)


@contextmanager
def whole_parameters(model):
    """Inside, the parameters that belong to no sharded part of `model` (projections and heads) are whole tensors.

    Towers that are sharded units of their own gather themselves whenever they are called. Nothing happens to a model
    that is not sharded.
    """
    if not isinstance(model, FSDPModule):  # of `torch.distributed.fsdp.fully_shard`
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
