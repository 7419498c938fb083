"""auto: its losses, the race against plain runs of the candidates, and what a run keeps of it."""

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from modeling_lfm.trainer import LfmTrainingArguments
from modeling_lfm.trainer.alpha.outer_loss import calibrated_cross_entropy
from modeling_lfm.trainer.methods import make_method

from ..toy import SMALLEST, SaveAt, only, toy_data, toy_trainer
from .steps import ONE_STEP, assert_one_step, stack, twin

NAMES = (0, 1, "only")
RACE = 3  # steps of 10, two an epoch


def run(folder, weights=NAMES, callback=None, resume=None, **kwargs):
    """A trainer after its run."""
    settings = {"num_train_epochs": 5, "size": 16, "holdout": 0, "lr_scheduler_type": "cosine", "learning_rate": 1e-2}
    method = {"name": "auto", "weights": list(weights), "race": 0.3}
    trainer = toy_trainer(folder, SMALLEST, method=method, **{**settings, **kwargs})
    trainer.holdout_dataset = only(toy_data(24, seed=7), SMALLEST)
    if callback is not None:
        trainer.add_callback(callback(trainer))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Measure(TrainerCallback):
    """The calibrated cross-entropy of F on the held-out samples after `RACE` steps."""

    def __init__(self, trainer):
        self.trainer = trainer

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == RACE:
            batch, model = stack(self.trainer.holdout_dataset), self.trainer.model.eval()
            labels = batch.pop("labels")
            self.trainer.found = calibrated_cross_entropy(model(**batch).logits, labels).item()
            model.train()


def raced(trainer):
    """The losses of the race (`dict`) in a trainer's log."""
    (entry,) = [entry for entry in trainer.state.log_history if "race_0" in entry]
    assert entry["step"] == RACE
    return {name: entry[f"race_{name}"] for name in NAMES}


def same(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("u", [0, 2.5, "only"])
def test_one_step(u, tmp_path):
    trainer = toy_trainer(tmp_path, SMALLEST, method={"name": "auto", "weights": [u]}, **ONE_STEP)
    model, batch = twin(trainer)
    labels, output = batch.pop("labels"), None
    output = model(**batch)
    heads = zip(output.features, model.fusion.heads, strict=True)
    each = [feature @ head.weight.T + head.bias for feature, head in heads]
    fused, own = F.cross_entropy(sum(each), labels), sum(F.cross_entropy(logits, labels) for logits in each)
    loss = own if u == "only" else fused + u * own
    loss.backward()
    trainer.train()
    assert_one_step(trainer.model, model)
    entry = trainer.state.log_history[0]
    assert (entry["loss"], entry["loss_fused"]) == pytest.approx((loss.item(), fused.item()), rel=1e-5)
    assert (entry["weight_fused"], entry["weight_unimodal"]) == ((0, 1) if u == "only" else (1, u))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Runs with one weight each, which race with nobody."""
    folder = tmp_path_factory.mktemp("plain")
    return {u: run(folder / str(u), [u], callback=Measure) for u in NAMES}


def test_each_candidate_races_as_it_would_train_alone(plain, tmp_path):
    """The race measures what runs of one weight reach after as many steps, and the best ends as if it had been alone:
    weights, moments and learning rates are its own, wherever it stands among the candidates."""
    wanted = {u: plain[u].found for u in NAMES}
    best = min(wanted, key=wanted.get)
    order = [u for u in NAMES if u != best]
    for weights in ([best, *order], [*order, best]):
        trainer = run(tmp_path, weights)
        assert raced(trainer) == pytest.approx(wanted, rel=1e-6)
        assert trainer.method.settings.weights[trainer.method.chosen] == best
        assert same(trainer, plain[best])
    assert not any(same(plain[best], plain[u]) for u in order)


def test_a_run_stopped_before_the_race_ends_goes_on_to_the_bit(tmp_path):
    settings, steps = {"optim": "adamw_torch_fused"}, (RACE - 1, RACE + 1)  # before it, and after
    whole = run(tmp_path / "whole", callback=lambda trainer: SaveAt(*steps), **settings)
    for step in steps:
        checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
        start = torch.load(checkpoint / "method.pt", weights_only=True)["state"]["start"]
        assert (start is None) == (step > RACE)
        resumed = run(tmp_path / "rest", resume=str(checkpoint), **settings)
        assert same(whole, resumed)
        assert raced(whole) == raced(resumed)


def test_no_checkpoint_of_a_candidate_that_lost_is_the_best(plain, tmp_path):
    loss = {u: plain[u].found for u in NAMES}
    best, *_, worst = sorted(NAMES, key=loss.get)
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2, "holdout": 0}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "best_early", "greater_is_better": False}

    def rising(trainer):
        trainer.compute_metrics = lambda told: {"best_early": float(trainer.state.global_step)}
        return TrainerCallback()

    assert run(tmp_path / "a", [best, worst], callback=rising, **settings).state.best_global_step == 2
    assert run(tmp_path / "b", [worst, best], callback=rising, **settings).state.best_global_step == RACE + 1


def test_a_candidate_that_diverged_loses(tmp_path):
    trainer = run(tmp_path, max_steps=3)
    assert trainer.method.held_out_loss(trainer.model) < 2
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    assert trainer.method.held_out_loss(trainer.model) == float("inf")


def test_a_run_too_short_for_a_race_trains_the_first_candidate(tmp_path):
    trainer = run(tmp_path, max_steps=3)
    assert same(trainer, run(tmp_path, [0], max_steps=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1, "most"]}, r"method\.weights=\[1, 'most'\] must be different numbers from 0 on, or only"),
        ({"weights": [1, 1]}, r"method\.weights=\[1, 1\] must be different"),
        ({"weights": []}, r"method\.weights=\[\] must be"),
        ({"weights": [-1]}, r"method\.weights=\[-1\] must be"),
        ({"race": 0.0}, r"method\.race=0\.0 must lie in \(0, 1\]"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make_method({"name": "auto", **settings})


def test_a_stream_that_is_read_once_is_refused(tmp_path):
    class Once(torch.utils.data.IterableDataset):
        def __iter__(self):
            return self

        def __next__(self):
            return next(self.samples)

    trainer, stream = toy_trainer(tmp_path, SMALLEST, method="auto", holdout=0), Once()
    args = LfmTrainingArguments(str(tmp_path), method="auto", holdout=0, max_steps=4, use_cpu=True)
    with pytest.raises(ValueError, match=r"auto.*stream must be readable again"):
        type(trainer)(trainer.model, args, stream, eval_dataset=trainer.eval_dataset)
