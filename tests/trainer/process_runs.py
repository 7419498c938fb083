"""All that is tested in two processes, one after the other under one launch, which imports once for both."""

import contextlib
import io
import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import debug_launcher
from accelerate.state import DistributedType, PartialState
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from modeling_lfm.scripts import train as train_program
from modeling_lfm.trainer.methods import list_methods
from modeling_lfm.trainer.objectives import info_nce
from tests.trainer.toy import SMALLEST, SaveAt, method_settings, smallest_towers, toy_trainer

METHODS = [spec.name for spec in list_methods()]
ALPHAS = [("learned", "infonce", "epoch"), ("lookahead", "js", "epoch"), ("learned", "infonce", 3)]
SIZES = [[4, 4], [5, 2]]  # samples of the two processes
HOLES = {  # on samples that lack modalities, methods that compute over both processes in ways of their own
    **{name: name for name in ("weight", "ogm", "mla", "mmpareto")},
    "js": {"name": "lfm", "alpha": "learned"},
    "infonce": {"name": "lfm", "alpha": "constant", "alpha_value": 0.5, "matching_loss": "infonce"},
}
SHARDED = {
    "central": {"name": "lfm", "alpha": "learned", "alpha_product": "central_difference"},
    "double": {"name": "lfm", "alpha": "learned"},
    "reused": {"name": "lfm", "alpha": "learned", "alpha_every": 2},
}
KINDS = ("FULL_STATE_DICT", "SHARDED_STATE_DICT")  # how accelerate writes what is spread over the processes
RESUMED = ("", *KINDS)  # the first: nothing is spread
REFUSED = {  # settings, and what the error says
    "lookahead": ({"method": {"name": "lfm", "alpha": "lookahead"}}, "choose alpha=learned"),
    "all": ({"method": {"name": "lfm", "alpha_parameters": "all"}}, "alpha_parameters=head"),
    "ogm": ({"method": {"name": "ogm", "alpha": 0.8}}, "method ogm needs the whole model in each process"),
    "channels_last": ({"method": "concat", "channels_last": True}, "channels_last needs whole parameters"),
}


def train(folder, towers, processes, **settings):
    """The trainer of a short run with SGD, 16 samples a step over all processes, whole steps; `passed` are the samples
    that passed a tower in this process, but for the two that tell before the first step whether they fit."""
    settings |= {"holdout": 16, "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.02}
    trainer = toy_trainer(folder, towers, per_device_train_batch_size=16 // processes, **settings)
    trainer.passed = -2

    def count(tower, inputs, vectors):
        trainer.passed += len(vectors)

    next(iter(trainer.model.lfm.towers.values())).register_forward_hook(count)
    trainer.train()
    return trainer


def read_log(trainer):
    """Losses and alphas of the steps (`dict` of two lists)."""
    log = trainer.state.log_history
    return {
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "alphas": [entry["alpha"] for entry in log if {"alpha", "loss_cls"} <= entry.keys()],
    }


def run(folder, towers, processes, **settings):
    """Weights, losses and alphas of a run."""
    trainer = train(folder, towers, processes, **settings)
    weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    return {"weights": weights, "passed": trainer.passed, **read_log(trainer)}


def run_method(folder, name, processes):
    size = 48 if name in ("reconboost", "domfn") else 32  # which change within an epoch: a second step
    return run(folder, smallest_towers(name), processes, method=method_settings(name), size=size)


def run_holes(folder, case, processes):
    method = HOLES[case]
    method = method if isinstance(method, dict) else method_settings(method)
    return run(folder, SMALLEST, processes, method=method, size=32, holes=True)


def run_alpha(folder, alpha, matching, every, processes):
    method = {"alpha": alpha, "matching_loss": matching, "alpha_every": every}
    return run(folder, SMALLEST, processes, method=method, size=48)


def run_probe(folder, processes):
    towers = {name: {**spec, "frozen": True} for name, spec in SMALLEST.items()}
    return run(folder, towers, processes, method="concat", linear_probe=True, size=48)


def run_sharded(folder, settings, size=48):
    """A run, whose model is saved in its folder; losses, alphas and whether the parameters were spread."""
    trainer = train(folder, SMALLEST, 2, size=size, **settings)
    groups = trainer.optimizer.param_groups  # after a forward pass alone the model's own are whole for a while
    sharded = [type(parameter).__name__ == "DTensor" for group in groups for parameter in group["params"]]
    trainer.save_model(str(Path(folder) / "saved"))
    return {"sharded": all(sharded), **read_log(trainer)}


def run_apart(folder):
    return run(folder, SMALLEST, 2, size=32, save_strategy="epoch")


def run_resumed(folder, kind):
    """Weights and logs of a run, and of one that goes on from a checkpoint in its second epoch, whose model is
    saved in its folder; and why it does not go on where checkpoints hold shards in another way."""
    settings = {"method": SHARDED["double"], "size": 48, "holdout": 16, "num_train_epochs": 2}
    step = 2 if kind == KINDS[0] else 3  # of 2 steps an epoch: where alpha moves first, or within an epoch
    checkpoint, found = str(folder / f"checkpoint-{step}"), {}
    for name, start in (("whole", None), ("resumed", checkpoint)):
        os.environ["FSDP_STATE_DICT_TYPE"] = kind
        trainer = toy_trainer(folder, SMALLEST, **settings)
        if start is None:
            trainer.add_callback(SaveAt(step))
        trainer.train(start)
        weights = get_model_state_dict(trainer.model, options=StateDictOptions(full_state_dict=True))
        found[name] = {"weights": weights, **read_log(trainer)}
    trainer.save_model(str(folder / "saved"))
    os.environ["FSDP_STATE_DICT_TYPE"] = KINDS[kind == KINDS[0]]
    try:
        if kind:
            toy_trainer(folder, SMALLEST, **settings, resume_changed=True).train(checkpoint)
    except ValueError as error:
        found["refused"] = str(error)
    return found


def run_program(folder, config):
    """What train.py prints in this process (`str`)."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_program.main([config, "--output_dir", str(folder), "--num_train_epochs", "1"])
    return printed.getvalue()


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_features(samples):
    """Parameters, and a function from so many of `samples` samples (a slice) to the features of two modalities."""
    weight, inputs = draw(2, 3, 5, seed=1).requires_grad_(), draw(samples, 3, seed=2)
    return weight, lambda part: [inputs[part] @ weight[0], (inputs[part] @ weight[1]).tanh()]


def gather(sizes):
    """InfoNCE over the samples of all processes: the gradient of this one's part, and how often it was asked."""
    rank = dist.get_rank()
    weight, features = draw_features(sum(sizes))
    mine = features(slice(sum(sizes[:rank]), sum(sizes[: rank + 1])))
    calls, all_gather = [], dist.all_gather
    dist.all_gather = lambda *args: (calls.append(args), all_gather(*args))
    try:
        loss = info_nce(mine, 0.5, gather=True, even=len(set(sizes)) == 1)
        loss.backward()
    finally:
        dist.all_gather = all_gather
    alone = info_nce(mine, 0.5, gather=False)
    return {"loss": loss.detach(), "gradient": weight.grad, "alone": alone.detach(), "calls": len(calls)}


def shard_from_now_on():
    """Ask accelerate for FSDP2, as its launcher does; and, as PyTorch shards on a CPU too, where it takes that for a
    matter of accelerators, say that these are some."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    initialise = PartialState.__init__

    def wrapped(self, *args, **kwargs):
        initialise(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = wrapped


def run_all(folder, config):
    """In each process."""
    folder, results = Path(folder), {}
    os.environ |= {key: str(dist.get_rank()) for key in ("RANK", "LOCAL_RANK")}  # as `accelerate launch` does

    def note(key, function, *args):
        try:
            results[key] = function(*args)
        except Exception as error:
            results[key] = {"error": str(error), "traceback": traceback.format_exc()}

    for name in METHODS:
        note(("method", name), run_method, folder / name, name, 2)
    for case in HOLES:
        note(("holes", case), run_holes, folder / "holes" / case, case, 2)
    for case in ALPHAS:
        note(("alpha", *case), run_alpha, folder / "-".join(map(str, case)), *case, 2)
    note("probe", run_probe, folder / "probe", 2)
    for sizes in SIZES:
        note(("gather", *sizes), gather, sizes)
    note("apart", run_apart, folder / "apart" / str(dist.get_rank()))
    note("program", run_program, folder / "program", config)
    note(("resumed", ""), run_resumed, folder / "resumed" / "whole", "")
    shard_from_now_on()
    for name, method in SHARDED.items():
        note(("sharded", name), run_sharded, folder / "sharded" / name, {"method": method})
    for kind in KINDS:
        note(("resumed", kind), run_resumed, folder / "resumed" / kind, kind)
    for name, (settings, _) in REFUSED.items():
        note(("refused", name), run_sharded, folder / "refused" / name, settings, 32)
    torch.save(results, folder / f"result-{dist.get_rank()}.pt")


def launch(folder, config):
    """Both processes, from one that has none of the threads of a test's."""
    debug_launcher(run_all, (str(folder), str(config)))
