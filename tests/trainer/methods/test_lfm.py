"""LFM as a method: the paper's objective, its schedules, its state, and which settings it refuses."""

import math

import pytest
from torch.nn import functional as F
from torch.utils.data import Dataset

from modeling_lfm.trainer.methods import make_method

from ..toy import SMOOTH, method_towers, only, toy_data, toy_trainer
from .steps import ONE_STEP, assert_one_step, twin


def matching(kind, output, labels, temperature=0.5):
    """L_MM over all pairs of modalities, written out."""
    places = range(len(output.features))
    if kind == "unimodal":
        return sum(F.cross_entropy(logits, labels) for logits in output.modality_logits) / len(places)
    terms = []
    for i in places:
        for j in places:
            if i == j:
                continue
            if kind == "infonce":
                one, other = (z / z.norm(dim=1, keepdim=True) for z in (output.features[i], output.features[j]))
                scores = one @ other.T / temperature
                terms.append(-scores.log_softmax(1).diagonal().mean())
            else:
                p, q = (output.modality_logits[place].softmax(1) for place in (i, j))
                m = (p + q) / 2
                terms.append(((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("kind", ["js", "infonce", "unimodal"])
@pytest.mark.parametrize(("total", "number"), [("convex", 2), ("ratio", 3)])
def test_one_step_is_sgd_on_the_objective(kind, total, number, tmp_path):
    method = {"matching_loss": kind, "total": total, "alpha": "constant", "alpha_value": 0.3, "temperature": 0.5}
    towers = method_towers("lfm", normalised=False, number=number)
    trainer = toy_trainer(tmp_path, towers, method=method, **ONE_STEP)
    model, batch = twin(trainer)
    output = model(**batch)
    loss_cls, loss_mm = F.cross_entropy(output.logits, batch["labels"]), matching(kind, output, batch["labels"])
    loss = 0.7 * loss_cls + 0.3 * loss_mm
    (loss if total == "convex" else loss / 0.7).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert entry["loss_cls"] == pytest.approx(loss_cls.item(), rel=1e-5)
    assert entry["loss_mm"] == pytest.approx(loss_mm.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"alpha": "heuristic"}, lambda t: 1 - math.exp(-1 / t)),
        ({"alpha": "constant", "alpha_value": 0.4}, lambda t: 0.4),
        (
            {"alpha": "polynomial", "polynomial_coefficients": [0.0, 0.01, 0.1, 0.2]},
            lambda t: t**2 / 100 + t / 10 + 0.2,
        ),
    ],
)
def test_alpha_of_each_epoch(settings, rule, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method=settings, size=16, num_train_epochs=3)
    trainer.train()
    alphas = [entry["alpha"] for entry in trainer.state.log_history if "loss" in entry]
    assert alphas == pytest.approx([rule(t) for t in (1, 1, 2, 2, 3, 3)])


@pytest.mark.parametrize(("alpha", "watches"), [("learned", True), ("lookahead", True), ("heuristic", False)])
def test_only_a_learned_alpha_needs_held_out_samples(alpha, watches, tmp_path):
    trainer = toy_trainer(tmp_path, SMOOTH, method={"alpha": alpha}, size=32, holdout=8)
    assert trainer.method.needs_holdout == watches
    assert len(trainer.train_dataset) == (24 if watches else 32)


def test_state_comes_back(tmp_path):
    settings = {"method": {"alpha": "learned", "alpha_start": 0.5}, "size": 40, "holdout": 8, "num_train_epochs": 2}
    trainer, other = (toy_trainer(tmp_path, SMOOTH, **settings) for _ in range(2))
    assert trainer.method.state_dict() == {"alpha": None, "schedule": {}}
    trainer.train()
    state = trainer.method.state_dict()
    assert state["alpha"] != 0.5
    other.state.num_train_epochs = 2
    other.method.load_state_dict(state)
    assert other.method.state_dict() == state
    assert other.method.schedule.value(2) == trainer.method.alpha


def test_one_modality_has_nothing_to_match(tmp_path):
    method = {"alpha": "constant", "alpha_value": 0.5}
    trainer = toy_trainer(tmp_path, {"text": SMOOTH["text"]}, method=method, **ONE_STEP)
    model, batch = twin(trainer)
    F.cross_entropy(model(**batch).logits, batch["labels"]).backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    assert trainer.state.log_history[0]["loss_mm"] == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"matching_loss": "cosine"}, r"method\.matching_loss='cosine' .* choose one of js, infonce, unimodal"),
        ({"total": "sum"}, r"method\.total='sum'"),
        ({"alpha": "magic"}, r"method\.alpha='magic'"),
        ({"alpha_rule": "?"}, r"method\.alpha_rule"),
        ({"alpha_solver": "?"}, r"method\.alpha_solver"),
        ({"alpha_product": "?"}, r"method\.alpha_product"),
        ({"alpha_parameters": "?"}, r"method\.alpha_parameters"),
        ({"alpha_outer": "?"}, r"method\.alpha_outer"),
        ({"alpha_value": 1.5}, r"method\.alpha_value=1\.5 must lie in \[0, 1\]"),
        ({"alpha_start": -0.1}, r"method\.alpha_start=-0\.1"),
        ({"temperature": 0.0}, r"method\.temperature=0\.0 must be positive"),
        ({"alpha_iterations": 0}, r"method\.alpha_iterations=0"),
        ({"alpha_inner_samples": 0}, r"method\.alpha_inner_samples=0"),
        ({"lookahead_steps": 0}, r"method\.lookahead_steps=0"),
        ({"alpha_damping": -1.0}, r"method\.alpha_damping=-1\.0"),
        ({"alpha_reuse": True, "alpha_parameters": "all"}, r"method\.alpha_reuse=True needs alpha=learned"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        make_method(setting)


class Watched(Dataset):
    """A data set that remembers which of its samples were read."""

    def __init__(self, samples):
        self.samples, self.read = samples, []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(int(index))
        return self.samples[index]


@pytest.mark.parametrize("alpha", ["learned", "lookahead"])
def test_an_update_reads_as_many_held_out_samples_as_told(alpha, tmp_path):
    """Others for each update, so that its cost does not grow with the data set; all, in order, if there are no more."""
    drawn = []
    for size in (8, 100):
        method = {"name": "lfm", "alpha": alpha, "lookahead_steps": 1, "alpha_outer_samples": size}
        trainer = toy_trainer(tmp_path, SMOOTH, method=method, size=16, holdout=0, num_train_epochs=3)
        held = trainer.holdout_dataset = Watched(toy_data(24, seed=3))
        held.samples = only(held.samples, SMOOTH)
        trainer.train()
        number = 2 if alpha == "learned" else 4  # two updates, of lookahead with two candidates each
        assert len(held.read) == number * min(size, 24)
        if size >= 24:
            assert held.read == number * list(range(24))
        else:
            drawn = [held.read[start : start + size] for start in range(0, number * size, size)]
            assert all(len(set(part)) == size for part in drawn)
            assert drawn[0] != drawn[-1]
            assert alpha == "learned" or drawn[0] == drawn[1]
    with pytest.raises(ValueError, match=r"alpha_outer_samples=0 must be positive"):
        make_method({"name": "lfm", "alpha_outer_samples": 0})
