"""Between log entries a step does not wait for the device: it reads no number back, and asks for no size."""

import traceback
import warnings

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from modeling_lfm.trainer import LfmTrainer
from modeling_lfm.trainer.methods import make_method

from .test_method_promises import NAMES, make_trainer
from .toy import SMOOTH, only, toy_data, toy_model, toy_trainer

STEPS = 2
# Settings without what reads once in a run: a race.
SETTINGS = {"auto": make_method({"name": "auto", "weights": [1]}).settings}
# How often a step reads, and why.
READS = {"greedy": (1, "whether gates are held, and so what is computed, depends on the speeds of this step")}
# Operators that wait for a CUDA device: those that give Python a number, and those whose size depends on values.
WAITING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive", "bincount"}
# What moves data from the device, or to it from Python's memory, and leaves no trace among the operators of a CPU.
MOVING = {"tolist", "cpu", "numpy", "__array__", "tensor", "new_tensor", "as_tensor"}


class Operators(TorchDispatchMode):
    """Keeps the operators of `WAITING`; what transformers asks of the mask of a text is its own."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITING:
            stack = traceback.extract_stack()
            if not any(frame.filename.endswith("masking_utils.py") for frame in stack):
                self.found.append("".join(traceback.format_list(stack[-6:])))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Keeps the calls of `MOVING`."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in MOVING:
            self.found.append("".join(traceback.format_list(traceback.extract_stack()[-4:-1])))
        return func(*args, **(kwargs or {}))


class Watch(TrainerCallback):
    """Enters `modes`, made anew, at the beginning of each optimizer step and leaves them at its end."""

    def __init__(self, *modes):
        self.modes, self.steps = modes, 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.entered = [mode() for mode in self.modes]
        for mode in self.entered:
            mode.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        for mode in reversed(self.entered):
            mode.__exit__(None, None, None)
        self.steps += 1


def watch(trainer, *modes):
    trainer.method.settings = SETTINGS.get(trainer.method.spec.name, trainer.method.settings)
    trainer.callback_handler.callbacks.insert(0, Watch(*modes))  # what other callbacks do belongs to the step, too
    trainer.train()
    assert trainer.callback_handler.callbacks[0].steps == trainer.state.global_step >= STEPS


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_nothing_back(name, tmp_path):
    settings = {"gradient_accumulation_steps": 2, "logging_strategy": "no", "holdout": 8, "size": 24}
    operators, functions = [], []
    trainer = make_trainer(tmp_path, name, smallest=True, num_train_epochs=2, **settings)
    watch(trainer, lambda: Operators(operators), lambda: Functions(functions))
    most = READS.get(name, (0, ""))[0] * trainer.state.global_step
    assert len(functions) <= most, functions[0]
    assert len(operators) == 0, operators[0]
    assert bool(functions) == bool(most)


def test_what_waits_is_seen(tmp_path):
    """Each kind of reading once a step."""

    class Reading(LfmTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            float(loss), loss.tolist(), loss.new_tensor([1.0]), (loss > 0).nonzero()
            return loss

    plain, operators, functions = toy_trainer(tmp_path, SMOOTH, method="concat", size=16), [], []
    data = only(toy_data(16), SMOOTH)
    trainer = Reading(toy_model(SMOOTH), plain.args, data)
    trainer.args.logging_strategy, trainer.args.num_train_epochs = "no", 1
    watch(trainer, lambda: Operators(operators), lambda: Functions(functions))
    assert (len(operators), len(functions)) == (2 * STEPS, 2 * STEPS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_is_not_waited_for(name, tmp_path):
    """As CUDA counts it, without a text, whose tower asks for its mask."""
    towers = {"audio": make_trainer(tmp_path, "mmtm").model.config.modalities["audio"], "vit": SMOOTH["vit"]}
    if name in ("mmtm", "greedy"):
        towers = make_trainer(tmp_path, name).model.config.modalities
    settings = {"logging_strategy": "no", "holdout": 8, "size": 40, "num_train_epochs": 2, "use_cpu": False}
    trainer = toy_trainer(tmp_path, towers, method=name, accelerator_config={"non_blocking": True}, **settings)
    waits = warnings.catch_warnings(record=True)
    with waits as found:
        warnings.simplefilter("always")
        watch(trainer, SyncWarnings)
    waited = [str(warning.message) for warning in found if "synchronizing CUDA operation" in str(warning.message)]
    assert len(waited) <= READS.get(name, (0, ""))[0] * trainer.state.global_step, waited[0]


class SyncWarnings:
    """Lets CUDA warn of each time that it is waited for."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("warn")

    def __exit__(self, *error):
        torch.cuda.set_sync_debug_mode("default")
