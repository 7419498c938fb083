"""Trains toy models under FSDP2, in two processes on a CPU."""

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}

import torch
from accelerate.state import DistributedType, PartialState

from tests.trainer.toy import SMOOTH, toy_trainer


def take_for_accelerators(initialise):
    """accelerate takes FSDP for a matter of accelerators, but PyTorch shards on CPUs, too: say that these are some."""

    def wrapped(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    return wrapped


PartialState.__init__ = take_for_accelerators(PartialState.__init__)


def run(folder, method, **settings):
    """A run; what is left of it in its folder, and `dict` with its alphas and whether parameters were spread."""
    trainer = toy_trainer(folder, SMOOTH, method=method, per_device_train_batch_size=8, **settings)
    trainer.train()
    sharded = [type(parameter).__name__ == "DTensor" for parameter in trainer.model.parameters()]
    trainer.save_model(str(Path(folder) / "saved"))
    alphas = [entry["alpha"] for entry in trainer.state.log_history if "loss_cls" in entry]
    return {"alphas": alphas, "sharded": all(sharded), "losses": trainer.state.log_history}


def main(folder, cases):
    results = {}
    for name, (method, settings) in json.loads(cases).items():
        try:
            results[name] = run(Path(folder) / name, method, **settings)
        except ValueError as error:
            results[name] = {"error": str(error)}
    torch.save(results, Path(folder) / f"result-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
