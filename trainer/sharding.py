"""Parameters that FSDP has spread over the processes: what is saved of them, and whose code goes with it."""

from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule


@contextmanager
def own_class(model):
    """Inside, a `model` to which FSDP2 gave a class of PyTorch's is of its own again, whose code is saved with it."""
    given = type(model)
    model.__class__ = next(one for one in given.__mro__ if not issubclass(one, FSDPModule))
    try:
        yield
    finally:
        model.__class__ = given


def describe_sharding(trainer):
    """How checkpoints hold what is spread (`str`): `FULL_STATE_DICT` or `SHARDED_STATE_DICT`; None without FSDP."""
    return trainer.accelerator.state.fsdp_plugin.state_dict_type.name if trainer.is_fsdp_enabled else None
