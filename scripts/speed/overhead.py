"""What LfmTrainer costs beside the model's own arithmetic: against a bare loop, and the paper's released step."""

import copy
import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from modeling_lfm.scripts.speed import models
from modeling_lfm.scripts.speed.suite import Spread

SGD = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 1e-2, "weight_decay": 1e-4, "max_grad_norm": 0.0}


@dataclass
class Setting:
    """What is trained: towers, shapes of their inputs (see `make_samples`), and how long."""

    goal: str
    towers: dict
    shapes: dict
    note: str
    steps: int = 5
    epochs: int = 5
    batch_size: int = 32
    model: dict = field(default_factory=dict)


def settings(bench):
    """Those of the suite (`list[Setting]`), for the three goals against a bare loop."""
    tiny, mini = models.resnet(1, model_args=models.TINY_ARGS), models.text(models.TINY_BERT)
    demo = {"towers": models.demo_towers(), "shapes": {"audio": (1, 65, 33), "image": (1, 16, 16)}}
    if bench.quick:
        towers, shapes = {"audio": tiny, "image": tiny}, {"audio": (1, 32, 32), "image": (1, 32, 32)}
        written, lengths = {"image": tiny, "text": mini}, {"image": (1, 32, 32), "text": 8}
        short = {"note": "tiny", "steps": 2, "epochs": 2, "batch_size": 4}
        demo |= short
    elif bench.suite == "gpu":
        towers = {"audio": models.resnet(1), "image": models.resnet(3)}
        shapes = {"audio": (1, 257, 299), "image": (3, 224, 224)}
        written, lengths = (
            {"image": models.resnet(3), "text": models.text(models.MINILM)},
            {"image": (3, 224, 224), "text": 128},
        )
        short = {"note": "257 x 299, 224 x 224; text of 128 tokens", "steps": 20, "epochs": 8}
    else:
        towers = {"audio": models.resnet(1), "image": models.resnet(3)}
        shapes = {"audio": (1, 96, 96), "image": (3, 96, 96)}
        written, lengths = (
            {"image": models.resnet(3), "text": models.text(models.MINILM)},
            {"image": (3, 96, 96), "text": 32},
        )
        short = {"note": "96 x 96 and 32 tokens, so that a step takes half a second"}
    return [
        Setting("bare loop, ResNet18 + ResNet18", towers, shapes, **short),
        Setting("bare loop, ResNet18 + BERT", written, lengths, **short),
        Setting(
            "bare loop, demo model",
            **{"note": "batch 64", "steps": 14, "epochs": 12, "batch_size": 64, **demo},
            model={"hidden_size": 64, "num_labels": 10},
        ),
    ]


class Race(TrainerCallback):
    """Lets another loop take a step after each one of the trainer, each on its own clock and random numbers.

    Args:
        bench (`Bench`)
        rival: an iterator whose `next` takes one step, and ends an epoch with its last.

    Attributes:
        epochs (`list`): seconds of each epoch, (trainer's, rival's).
    """

    def __init__(self, bench, rival):
        self.bench, self.rival, self.epochs = bench, rival, []

    def on_train_begin(self, args, state, control, **kwargs):
        self.numbers = random_state()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.own = self.others = 0.0
        self.begun = self.bench.now()

    def on_step_end(self, args, state, control, **kwargs):
        self.own += self.bench.now() - self.begun
        with self.other_numbers():
            self.others += self.bench.time(lambda: next(self.rival))
        self.begun = self.bench.now()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:  # an epoch is over
            self.epochs.append((self.own + self.bench.now() - self.begun, self.others))

    @contextmanager
    def other_numbers(self):
        """The rival's random numbers inside, the trainer's after it."""
        before = random_state()
        set_random_state(self.numbers)
        yield
        self.numbers = random_state()
        set_random_state(before)


def random_state():
    """Of torch, on the CPU and on CUDA if it is used."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def set_random_state(state):
    """What `random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def race(bench, trainer, rival):
    """Train, and let `rival` take as many steps.

    Returns:
        `Spread` over the epochs but the first: samples per second of the trainer over those of the rival.
    """
    watch = Race(bench, rival)
    trainer.callback_handler.callbacks.insert(0, watch)  # what other callbacks do in an epoch counts
    trainer.train()
    return Spread.of(others / own for own, others in watch.epochs[1:])


def bare_loop(model, samples, setting, device, losses):
    """A plain loop (iterator of steps) with the optimizer and clipping of the trainer; `losses` gets epochs' means."""
    optimizer = torch.optim.AdamW(decayed(model, 0.0), lr=1e-3, fused=True)
    loader = DataLoader(samples, setting.batch_size, pin_memory=device.type == "cuda")
    model.train()
    while True:
        total = 0
        for number, batch in enumerate(loader, 1):
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            loss = model(**batch).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            total = total + loss.detach()
            if number == len(loader):
                losses.append(total.item() / number)
            yield


def decayed(model, weight_decay):
    """Parameter groups (`list[dict]`) in which vectors are not decayed, as usual."""
    matrices, vectors = [], []
    for parameter in model.parameters():
        (matrices if parameter.dim() > 1 else vectors).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class ReleasedModel(nn.Module):
    """Two towers, and a head on their joined vectors that is split for the modalities' own predictions.

    From the description of the paper's released training, with the towers, projections and head of an LFM `model`, so
    that both compute the same.
    """

    def __init__(self, model):
        super().__init__()
        self.names = model.config.modality_names
        self.towers, self.projections = model.lfm.towers, model.lfm.projections
        self.head = model.fusion.head

    def forward(self, first, second):
        vectors = zip((first, second), self.names, strict=True)
        one, other = (self.projections[name](self.towers[name](values)) for values, name in vectors)
        left, right = self.head.weight.chunk(2, dim=1)
        half = self.head.bias / 2
        fused = F.linear(torch.cat((one, other), 1), self.head.weight, self.head.bias)
        return fused, F.linear(one, left, half), F.linear(other, right, half)


def released_loop(model, samples, setting, device, losses):
    """The paper's released training step (iterator), written afresh: `losses` gets the first batch's L_CLS.

    L = (1 - alpha) CE(F) + alpha A, alpha = 1 - exp(-1 / t) of the epoch t, and the alignment A half the sum of the
    divergences of each softmaxed prediction and their mean, the mean first; three losses are read as numbers each step.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(samples, setting.batch_size, pin_memory=device.type == "cuda")
    model.train()
    epoch, kept = 0, [0.0, 0.0, 0.0]
    while True:
        epoch += 1
        alpha = 1 - math.exp(-1 / epoch)
        for batch in loader:
            first, second = (batch[f"{name}_values"].float().to(device) for name in model.names)
            labels = batch["labels"].to(device)
            optimizer.zero_grad()
            fused, one, other = model(first, second)
            p, q = one.softmax(-1), other.softmax(-1)
            mean = (p + q) / 2
            parts = [F.kl_div(side.log(), mean, reduction="batchmean") for side in (p, q)]
            alignment, loss_cls = sum(parts) / 2, F.cross_entropy(fused, labels)
            loss = (1 - alpha) * loss_cls + alpha * alignment
            loss.backward()
            optimizer.step()
            read = [part.item() for part in (loss, loss_cls, alignment)]
            kept = [old + new for old, new in zip(kept, read, strict=True)]
            losses.append(read[1])
            yield


def against_bare_loop(bench, setting):
    """A `Row`: LfmTrainer with method concat and a bare loop that ends with the same weights."""
    model = models.make_model(setting.towers, **setting.model)
    rival_model = copy.deepcopy(model).to(bench.device)
    samples = models.make_samples(setting.shapes, setting.steps * setting.batch_size)
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = models.make_trainer(
            bench, folder, model, samples, batch_size=setting.batch_size, epochs=setting.epochs, weight_decay=0.0
        )
        found = race(bench, trainer, bare_loop(rival_model, samples, setting, bench.device, losses))
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    pairs = zip(model.state_dict().values(), rival_model.state_dict().values(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)
    close = all(abs(one - other) <= 1e-3 * abs(other) for one, other in zip(logged, losses, strict=True))
    exact = bench.suite == "cpu"  # some of CUDA's kernels add in any order
    check = "same weights to the bit, same losses" if exact else "same losses to 0.1 %"
    return found.row(
        setting.goal, goal=setting.goal, correct=close and (same or not exact), check=check, note=setting.note
    )


def against_released_step(bench, setting, anomaly):
    """A `Row`: LfmTrainer with LFM's heuristic alpha, and the released step, with or without anomaly detection."""
    model = models.make_model(setting.towers, "lfm", **setting.model)
    rival_model = ReleasedModel(copy.deepcopy(model)).to(bench.device)
    samples = models.make_samples(setting.shapes, setting.steps * setting.batch_size)
    method = {"name": "lfm", "alpha": "heuristic", "total": "convex"}
    same, losses = predicts_the_same(model.to(bench.device), rival_model, samples), []
    rival = released_loop(rival_model, samples, setting, bench.device, losses)
    with tempfile.TemporaryDirectory() as folder:
        trainer = models.make_trainer(bench, folder, model, samples, method, setting.batch_size, setting.epochs, **SGD)
        found = race(bench, trainer, with_anomaly_detection(rival) if anomaly else rival)
    on = "on, as released" if anomaly else "off"
    return found.row(
        f"released step, anomaly detection {on}",
        goal=None if anomaly else "released step, anomaly detection off",
        correct=same and losses[-1] < losses[0],
        check="same predictions before training; its loss falls",
        note=setting.note,
    )


def predicts_the_same(model, rival, samples):
    """Whether an LFM model and the `ReleasedModel` of it (`bool`) give a few samples the same three logits."""
    values = {name: torch.stack([sample[name] for sample in samples[:4]]) for name in samples[0]}
    with torch.no_grad():
        model.eval(), rival.eval()
        output = model(**{name: tensor.to(model.device) for name, tensor in values.items() if name != "labels"})
        others = rival(*(values[f"{name}_values"].to(model.device) for name in rival.names))
    return all(
        torch.allclose(one, other, atol=1e-5)
        for one, other in zip((output.logits, *output.modality_logits), others, strict=True)
    )


def with_anomaly_detection(steps):
    """The iterator `steps`, in each step of which torch looks for what is not a number."""
    for _ in iter(int, 1):
        with torch.autograd.set_detect_anomaly(True):
            next(steps)
        yield


def measure(bench):
    """See `benchmark_suite`."""
    chosen = settings(bench)
    for setting in chosen:
        yield against_bare_loop(bench, setting)
    for anomaly in (False, True):
        yield against_released_step(bench, replace(chosen[0], epochs=3) if anomaly else chosen[0], anomaly)
