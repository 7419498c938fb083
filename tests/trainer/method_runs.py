"""Trains toy models with one method after the other, under `accelerate launch`, for the tests of two processes."""

import json
import sys
import traceback
from pathlib import Path

import torch

from tests.trainer.toy import method_settings, method_towers, toy_trainer


def run(folder, name, processes):
    """Weights and losses of a short run with SGD, 16 samples a step over all processes."""
    trainer = toy_trainer(
        Path(folder) / name,
        method_towers(name, normalised=False),
        method=method_settings(name),
        size=48,
        holdout=16,  # 32 or 48 are left: whole steps
        num_train_epochs=2,
        optim="sgd",
        learning_rate=0.02,
        per_device_train_batch_size=16 // processes,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"weights": {k: v.clone() for k, v in trainer.model.state_dict().items()}, "losses": losses}


def main(folder, names):
    results = {}
    for name in json.loads(names):
        try:
            results[name] = run(folder, name, processes=2)
        except Exception:
            results[name] = {"error": traceback.format_exc()}
    torch.save(results, Path(folder) / f"result-{torch.distributed.get_rank()}.pt")
    if any("error" in result for result in results.values()):
        print(*(result["error"] for result in results.values() if "error" in result), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
