"""Models whose parameters are spread over the processes (FSDP2)."""

from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule


def is_sharded(model):
    """`bool`: whether parameters of `model` are spread over the processes by `torch.distributed.fsdp.fully_shard`."""
    return isinstance(model, FSDPModule)


@contextmanager
def whole_parameters(model):
    """Inside, the parameters that belong to no sharded part of `model` (projections and heads) are whole tensors.

    Towers that are sharded units of their own gather themselves whenever they are called. Nothing happens to a model
    that is not sharded.
    """
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
